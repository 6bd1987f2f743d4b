// SPDX-License-Identifier: Apache-2.0
//
// xfs on a disk of the server, over nbdfuse and a loop device: its life, and a crash of the server.

import { fileSystemSuite } from "./filesystem-suite.ts";

fileSystemSuite({
  name: "xfs",
  make: ["mkfs.xfs", "-q", "-f"],
  check: ["xfs_repair", "-n"],
  needs: ["mkfs.xfs -V", "xfs_repair -V"],
});
