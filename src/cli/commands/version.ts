// SPDX-License-Identifier: Apache-2.0
//
// `varve version`: of this command line and the runtime under it; a daemon may be older, which
// `varve info` tells.

import { NODE_VERSION, productVersion } from "../../host/node/product.ts";
import type { CommandContext } from "../command.ts";

export async function run({ isJson, output }: CommandContext): Promise<undefined> {
  const version = productVersion();
  if (isJson) output.json({ version, node: NODE_VERSION });
  else output.line(`varve ${version}`);
}
