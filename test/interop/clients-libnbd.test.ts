// SPDX-License-Identifier: Apache-2.0
//
// libnbd's programs as clients: what nbdinfo sees, what nbdcopy carries both ways, and each command
// with its flags and its edges through nbdsh.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { programEnv, run } from "./command.ts";
import { makeExt4Image, makeSparseFile, noise, REAL_TREE } from "./content.ts";
import { NbdConnection } from "./nbd-connection.ts";
import { requires } from "./requires.ts";
import { Scratch } from "./scratch.ts";
import { KIND_UNDER_TEST, Server } from "./server.ts";

const MIB = 1024 * 1024;
const isVarve = KIND_UNDER_TEST === "varve";
const skip = requires("nbdinfo --version", "nbdcopy --version", "nbdsh --version");

interface NbdInfo {
  readonly protocol: string;
  readonly structured: boolean;
  readonly exports: readonly Readonly<Record<string, unknown>>[];
}

test("nbdinfo sees size, block sizes and everything the export can do", { skip }, async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: 10 * MIB + 512 });
  const { stdout } = await run("nbdinfo", ["--json", server.uri]);
  const { protocol, structured, exports } = JSON.parse(stdout) as NbdInfo;
  equal(protocol, "newstyle-fixed");
  equal(structured, true);
  const [found] = exports;
  equal(found!["export-size"], 10 * MIB + 512);
  equal(found!.is_read_only, false);
  for (const ability of ["can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn"])
    equal(found![ability], true, ability);
  ok((found!.contexts as string[]).includes("base:allocation"));
  if (!isVarve) return;
  for (const ability of ["can_df", "can_cache", "can_fast_zero"])
    equal(found![ability], true, ability);
  equal(found!["export-name"], "db");
  equal(found!.block_size_minimum, 1);
  equal(found!.block_size_preferred, 4096);
  equal(found!.block_size_maximum, 32 * MIB);
});

test("nbdinfo --list names every volume", { skip }, async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: 10 * MIB });
  if (isVarve) await server.varve(["create", "second", "20M"]);
  const uri = `nbd+unix:///?socket=${server.socket}`;
  const { stdout } = await run("nbdinfo", ["--list", "--json", uri]);
  const names = (JSON.parse(stdout) as NbdInfo).exports.map((one) => one["export-name"]);
  if (isVarve) deepEqual([...names].sort(), ["db", "second"]);
  else ok(names.length >= 1);
});

interface Extent {
  readonly offset: number;
  readonly length: number;
  readonly type: number;
}

test("nbdinfo --map shows data where data is, and holes elsewhere", { skip }, async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: 64 * MIB });
  const connection = await NbdConnection.open(server.socket, "db");
  await connection.write(MIB, noise(64 * 1024, 1));
  await connection.write(32 * MIB, noise(MIB, 2));
  await connection.flush();
  await connection.close();
  const { stdout } = await run("nbdinfo", ["--map", "--json", server.uri]);
  const extents = JSON.parse(stdout) as Extent[];
  let end = 0;
  for (const { offset, length } of extents) {
    equal(offset, end, "the extents leave no gap");
    end += length;
  }
  equal(end, 64 * MIB);
  // qemu-img puts a block at the start of a raw file that it makes.
  const data = extents
    .filter(({ type, offset }) => type === 0 && (offset > 0 || isVarve))
    .map(({ offset, length }) => [offset, length]);
  deepEqual(data, [
    [MIB, 64 * 1024],
    [32 * MIB, MIB],
  ]);
});

test("nbdcopy carries an ext4 image in and out without a changed bit", { skip }, async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: 128 * MIB });
  const [source, target] = [scratch.path("in.raw"), scratch.path("out.raw")];
  await makeExt4Image(source, 128 * MIB, REAL_TREE);
  await run("nbdcopy", ["--flush", source, server.uri]);
  await run("nbdcopy", [server.uri, target]);
  await run("cmp", [source, target]);
  await run("e2fsck", ["-fn", target]);
});

test("nbdcopy from one export to another keeps holes and odd lengths", { skip }, async () => {
  await using scratch = await Scratch.create();
  const sizeBytes = 40 * MIB + 1536;
  const from = await Server.inScratch(scratch, { sizeBytes, exportName: "from" });
  const to = await Server.inScratch(scratch, { sizeBytes, exportName: "to" });
  const [source, target] = [scratch.path("in.raw"), scratch.path("out.raw")];
  await makeSparseFile(source, sizeBytes);
  await run("nbdcopy", ["--requests=16", source, from.uri]);
  await run("nbdcopy", ["--connections=2", from.uri, to.uri]);
  await run("nbdcopy", ["--synchronous", to.uri, target]);
  await run("cmp", [source, target]);
});

test("nbdsh gets every command, flag and edge as the protocol says", { skip }, async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: 8 * MIB + 512 });
  const script = `uri = "${server.uri}"${COMMANDS}${isVarve ? EDGES : ""}\nprint("done")`;
  // Debian's nbdsh is a script of the system's own python.
  const env = programEnv({ PATH: `/usr/bin:${process.env.PATH ?? ""}` });
  const { stdout } = await run("nbdsh", ["-c", script], {
    env,
  });
  equal(stdout.trim(), "done");
});

const COMMANDS = `
h.add_meta_context("base:allocation")
h.connect_uri(uri)
size = h.get_size()
assert size == 8 * 1024 * 1024 + 512

h.pwrite(b"a" * 512, 4096, nbd.CMD_FLAG_FUA)
assert h.pread(512, 4096) == b"a" * 512

# one byte, and bytes across a block border, leave their neighbours alone
h.pwrite(b"b", 4097)
h.pwrite(b"c" * 10, 8187)
assert h.pread(4, 4096) == b"abaa"
assert h.pread(14, 8185) == bytes(2) + b"c" * 10 + bytes(2)

# the last sector of a size that is no multiple of 4096
h.pwrite(b"e" * 512, size - 512)
assert h.pread(512, size - 512) == b"e" * 512

h.zero(100, 4096)
assert h.pread(101, 4096) == bytes(100) + b"a"
h.zero(4096, 4096, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
assert h.pread(4096, 4096) == bytes(4096)

h.pwrite(b"t" * 65536, 65536)
h.trim(65536, 65536, nbd.CMD_FLAG_FUA)
h.flush()

def chunks(offset, length, flags=0):
    seen = []
    def chunk(data, at, status, error):
        seen.append((at, len(data), status))
    assert h.pread_structured(length, offset, chunk, flags)
    return seen
assert sum(length for _, length, _ in chunks(0, 65536)) == 65536

entries = []
def extent(context, offset, values, error):
    if context == "base:allocation": entries.extend(values)
h.block_status(size, 0, extent)
assert sum(entries[0::2]) <= size and len(entries) >= 2
h.block_status(4096, 8192, extent, nbd.CMD_FLAG_REQ_ONE)
`;

const EDGES = `
h.cache(65536, 0)
assert h.pread(65536, 65536) == bytes(65536)
assert len(chunks(0, 1048576, nbd.CMD_FLAG_DF)) == 1
h.zero(65536, 131072, nbd.CMD_FLAG_FAST_ZERO)
assert h.pread(65536, 131072) == bytes(65536)

# lies that libnbd itself would not send
import errno
h.set_strict_mode(0)
def refused(number, call, *args):
    try:
        call(*args)
    except nbd.Error as error:
        assert error.errnum == number, (call, args, error)
    else:
        raise Exception("not refused: %r %r" % (call, args))
refused(errno.EINVAL, h.pread, 512, size)
refused(errno.EINVAL, h.pread, 1024, size - 512)
refused(errno.ENOSPC, h.pwrite, b"x" * 512, size)
refused(errno.ENOSPC, h.pwrite, b"x" * 1024, size - 512)
refused(errno.ENOSPC, h.pwrite, b"x" * 512, 2**63)
refused(errno.EINVAL, h.trim, 512, size)
refused(errno.ENOSPC, h.zero, 512, size)
refused(errno.EINVAL, h.pread, 512, 2**64 - 512)
refused(errno.EINVAL, h.pread, 512, 0, 1 << 15)
assert h.pread(512, size - 512) == b"e" * 512
`;
