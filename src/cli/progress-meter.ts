// SPDX-License-Identifier: Apache-2.0
//
// The progress of a command on its stderr, in the style that --progress or the terminal asks for: a bar for
// people, lines for logs, JSON for programs.

import { createClock } from "../host/node/clock.ts";
import type { CommandContext } from "./command.ts";
import { ProgressMeter, type ProgressStyle } from "./progress.ts";

const STYLES: readonly ProgressStyle[] = ["bar", "lines", "json", "none"];

/** `style` is for when neither says anything. */
export function meterOf(
  context: CommandContext,
  label: string,
  style: ProgressStyle = process.stderr.isTTY === true ? "bar" : "lines",
): ProgressMeter {
  const wanted = STYLES.find((style) => style === context.option("progress"));
  return new ProgressMeter({
    label,
    style: wanted ?? style,
    clock: createClock(),
    write: (text) => void process.stderr.write(text),
    columns: () => process.stderr.columns ?? 80,
  });
}
