// SPDX-License-Identifier: Apache-2.0
//
// ext4 on a disk of the server, over nbdfuse and a loop device: its life, and a crash of the server.

import { fileSystemSuite } from "./filesystem-suite.ts";

fileSystemSuite({
  name: "ext4",
  make: ["mkfs.ext4", "-q", "-F"],
  check: ["e2fsck", "-fn"],
  needs: ["mkfs.ext4 -V", "e2fsck -V"],
});
