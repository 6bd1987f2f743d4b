// SPDX-License-Identifier: Apache-2.0
//
// The worked example of docs/format/activity.md is what the code writes and reads, byte for byte.

import { deepEqual, equal } from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  ActivityBucket,
  ActivityReader,
  BUCKET_BYTES_MAX,
  encodeBucket,
  MINUTE_MICROS,
} from "../../src/volume/activity-bucket.ts";

const PAGE = join(import.meta.dirname, "../../docs/format/activity.md");

test("the example of a bucket", () => {
  const text = readFileSync(PAGE, "utf8").split("<!-- test: bucket -->\n```\n")[1] ?? "";
  const digits = text.slice(0, text.indexOf("```")).replaceAll(/^[a-z]+ +|\s/gm, "");
  const example = Uint8Array.from(Buffer.from(digits, "hex"));
  const bucket = new ActivityBucket(28_333_333 * MINUTE_MICROS, MINUTE_MICROS);
  bucket.note(1200, bucket.startMicros + 41);
  bucket.note(1201, bucket.startMicros + 50_041);
  bucket.writeCount = 1;
  bucket.blockCount = 2;
  bucket.freshCount = 2;
  bucket.frameCount = 2;
  bucket.rawFrameCount = 1;
  bucket.frameBytes = 4120 + 1000;
  bucket.flushCount = 1;
  bucket.blocks.addRange(7, 2);
  const written = new Uint8Array(BUCKET_BYTES_MAX);
  equal(encodeBucket(bucket, written, 0), example.length);
  deepEqual(written.slice(0, example.length), example);
  deepEqual(new ActivityReader(example).bucket(), bucket);
});
