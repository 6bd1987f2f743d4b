// SPDX-License-Identifier: Apache-2.0
//
// The kernel's client across kills -9 of the daemon (promise 7). Debian 12's nbd-client can't tell the
// kernel to wait for a server that comes back (3.27 is the first that can), so the recipe puts nbdkit's
// retry filter in between: the kernel talks to nbdkit, which never dies, and nbdkit opens again and repeats
// what was under way. A guest makes ext4 on it and copies trees while the daemon is killed again and again;
// no error may reach the guest, and every file must be whole.

import { match, ok } from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { test } from "node:test";
import { delay, run } from "../interop/command.ts";
import { startBetween } from "../interop/front.ts";
import { requires } from "../interop/requires.ts";
import { Scratch } from "../interop/scratch.ts";
import { Server } from "../interop/server.ts";
import { freePort } from "./free-port.ts";

const TIMEOUT_SECONDS = 180;

const GUEST = (port: number): string => `
set -e
TREE=/host/usr/lib/python3
nbd-client 10.0.2.2 ${port} /dev/nbd0 -N "" -b 4096
mkfs.ext4 -q -F /dev/nbd0
mkdir /tmp/m
mount -o noatime /dev/nbd0 /tmp/m
mountpoint -q /tmp/m
for round in 1 2 3 4; do
  cp -a $TREE /tmp/m/tree$round
  sync -f /tmp/m
done
rm -r /tmp/m/tree1 /tmp/m/tree2
fstrim -v /tmp/m
umount /tmp/m
e2fsck -fn /dev/nbd0
echo 3 > /proc/sys/vm/drop_caches
mount -o ro /dev/nbd0 /tmp/m
diff -r --no-dereference $TREE /tmp/m/tree3
diff -r --no-dereference $TREE /tmp/m/tree4
umount /tmp/m
nbd-client -d /dev/nbd0
if dmesg | grep -iE 'I/O error|EXT4-fs error|aborting journal'; then exit 1; fi
echo "no error, every file whole"
`;

test("the kernel's client behind nbdkit's retry filter sees no error across kills -9", {
  skip: requires("uml-run --help", "nbdkit --version", "nbd-client --version"),
  timeout: (TIMEOUT_SECONDS + 60) * 1000,
}, async (context) => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: 1024 * 2 ** 20 });
  const port = await freePort();
  const front = ["nbdkit", "--foreground", "--ipaddr=127.0.0.1", `--port=${port}`];
  const retry = ["--filter=retry", "nbd", `uri=${server.uri}`, "retry=60", "retries=60"];
  const timing = ["retry-delay=1", "retry-exponential=no"];
  await startBetween(scratch, { command: [...front, ...retry, ...timing], port });
  const script = scratch.path("guest.sh");
  await writeFile(script, GUEST(port));

  let isOver = false;
  const limits = ["-n", "-M", "nbd ext4", "-t", `${TIMEOUT_SECONDS}`];
  const guest = run("uml-run", [...limits, script], {
    timeoutMs: (TIMEOUT_SECONDS + 30) * 1000,
  }).finally(() => {
    isOver = true;
  });
  guest.catch(() => {});
  let killCount = 0;
  for (await delay(4000); !isOver; await delay(1500)) {
    await server.kill9();
    killCount++;
    await delay(300);
    await server.restart();
  }
  const { stdout } = await guest;
  context.diagnostic(`${killCount} kills`);
  match(stdout, /no error, every file whole/);
  ok(killCount >= 3, `it was killed ${killCount} times meanwhile`);
});
