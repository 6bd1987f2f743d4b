// SPDX-License-Identifier: Apache-2.0
//
// btrfs on a disk of the server, over nbdfuse and a loop device: its life, and a crash of the server.

import { fileSystemSuite } from "./filesystem-suite.ts";

fileSystemSuite({
  name: "btrfs",
  make: ["mkfs.btrfs", "-q", "-f"],
  check: ["btrfs", "check", "--readonly"],
  needs: ["mkfs.btrfs -V", "btrfs version"],
});
