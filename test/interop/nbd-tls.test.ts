// SPDX-License-Identifier: Apache-2.0
//
// TLS with real clients: certificates made by openssl, keys as psktool writes them, libnbd and QEMU (both
// over GnuTLS) and our own client (OpenSSL) on the other end.

import { equal, match, ok, rejects } from "node:assert/strict";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { test } from "node:test";
import { connectStream } from "../../src/host/node/socket-connect.ts";
import type { TlsClientSettings } from "../../src/host/node/socket-tls.ts";
import type { TlsServerSettings } from "../../src/host/sockets.ts";
import { NbdClient } from "../../src/nbd/client.ts";
import { parsePskFile } from "../../src/nbd/psk-file.ts";
import { run, until } from "./command.ts";
import { type Door, type DoorOptions, openDoor } from "./nbd-door.ts";
import { requires } from "./requires.ts";
import { Scratch } from "./scratch.ts";

const skip = requires("openssl version", "nbdinfo --version", "qemu-img --version");
const NO_KEYS: ReadonlyMap<string, Uint8Array> = new Map();

interface Authority {
  readonly directory: string;
  /** PEM of ca-cert, server-cert, server-key, client-cert, client-key. */
  readonly pem: (name: string) => Promise<string>;
}

/** An authority, a server "localhost" and a client "backup", in the files that GnuTLS clients look for. */
async function makeAuthority(
  scratch: Scratch,
  name = "pki",
  client = "backup",
): Promise<Authority> {
  const directory = scratch.path(name);
  await mkdir(directory);
  const openssl = (...args: string[]) => run("openssl", args, { cwd: directory });
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
  const self = ["req", "-x509", ...key, "-keyout", "ca-key.pem", "-out", "ca-cert.pem"];
  await openssl(...self, "-subj", "/CN=test authority");
  for (const [role, subject] of [
    ["server", "/CN=localhost"],
    ["client", `/CN=${client}`],
  ] as const) {
    const signed = [
      "-CA",
      "ca-cert.pem",
      "-CAkey",
      "ca-key.pem",
      "-addext",
      "basicConstraints=CA:FALSE",
    ];
    const names = role === "server" ? ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"] : [];
    const files = ["-keyout", `${role}-key.pem`, "-out", `${role}-cert.pem`, "-subj", subject];
    await openssl("req", "-x509", ...key, ...signed, ...names, ...files);
  }
  return { directory, pem: (file) => readFile(`${directory}/${file}.pem`, "utf8") };
}

async function serverSettings(
  authority: Authority,
  clientCertificate: TlsServerSettings["clientCertificate"] = "none",
): Promise<TlsServerSettings> {
  return {
    certificate: await authority.pem("server-cert"),
    key: await authority.pem("server-key"),
    authorities: await authority.pem("ca-cert"),
    clientCertificate,
    presharedKeys: NO_KEYS,
  };
}

async function open(
  scratch: Scratch,
  tls: TlsServerSettings,
  more: DoorOptions["settings"] = {},
): Promise<Door> {
  return await openDoor(scratch, { settings: { tlsMode: "required", tls, ...more } });
}

async function ours(door: Door, tls: TlsClientSettings): Promise<NbdClient> {
  const stream = await connectStream({ kind: "tcp", host: "127.0.0.1", port: door.port }, tls);
  return await NbdClient.open(stream, { exportName: "db", isTlsWanted: true });
}

function qemuImage(door: Door): string {
  return `driver=nbd,server.type=inet,server.host=127.0.0.1,server.port=${door.port},export=db,tls-creds=tls0`;
}

test("X.509: libnbd, QEMU and our own client copy over TLS", { skip }, async () => {
  await using scratch = await Scratch.create();
  const authority = await makeAuthority(scratch);
  const door = await open(scratch, await serverSettings(authority));
  const uri = `nbds://localhost:${door.port}/db?tls-certificates=${authority.directory}`;
  const { stdout } = await run("nbdinfo", [uri]);
  match(stdout, /newstyle-fixed with TLS/);
  const bytes = Buffer.alloc(8 << 20, "varve");
  await writeFile(scratch.path("in.raw"), bytes);
  await run("nbdcopy", [scratch.path("in.raw"), uri]);
  const credentials = `tls-creds-x509,id=tls0,dir=${authority.directory},endpoint=client`;
  const target = ["-O", "raw", scratch.path("out.raw")];
  await run("qemu-img", [
    "convert",
    "--object",
    credentials,
    "--image-opts",
    qemuImage(door),
    ...target,
  ]);
  equal(
    Buffer.compare((await readFile(scratch.path("out.raw"))).subarray(0, bytes.length), bytes),
    0,
  );
  const nbd = await ours(door, {
    authorities: await authority.pem("ca-cert"),
    serverName: "localhost",
  });
  await nbd.write(1, bytes);
  equal(Buffer.compare(await nbd.read(1, bytes.length), bytes), 0);
  await nbd.close();
});

test("X.509: a client certificate opens what its name is in the access list of", {
  skip,
}, async () => {
  await using scratch = await Scratch.create();
  const authority = await makeAuthority(scratch);
  const stranger = await makeAuthority(scratch, "other");
  const access = [{ exportName: "db", allow: [{ certificateName: "backup" }] }];
  const door = await open(scratch, await serverSettings(authority, "required"), { access });
  const authorities = await authority.pem("ca-cert");
  const known = {
    certificate: await authority.pem("client-cert"),
    key: await authority.pem("client-key"),
  };
  const nbd = await ours(door, { authorities, serverName: "localhost", ...known });
  equal(door.catalog.opened[0]?.client.certificateName, "backup");
  await nbd.close();
  await rejects(ours(door, { authorities, serverName: "localhost" }));
  const forged = {
    certificate: await stranger.pem("client-cert"),
    key: await stranger.pem("client-key"),
  };
  await rejects(ours(door, { authorities, serverName: "localhost", ...forged }));
  equal(door.catalog.openCount, 1);
  await until("both refusals are in the log", () => door.warnings.length === 2);
  ok(
    door.warnings.some((line) => /no client certificate/.test(line)),
    door.warnings.join("\n"),
  );
  ok(
    door.warnings.some((line) => /certificate not valid/.test(line)),
    door.warnings.join("\n"),
  );
});

test("X.509: a valid client that isn't in the access list is refused", { skip }, async () => {
  await using scratch = await Scratch.create();
  const authority = await makeAuthority(scratch);
  const access = [{ exportName: "db", allow: [{ certificateName: "somebody else" }] }];
  const door = await open(scratch, await serverSettings(authority, "required"), { access });
  const uri = `nbds://localhost:${door.port}/db?tls-certificates=${authority.directory}`;
  await rejects(run("nbdinfo", [uri]), /nbdinfo/);
  equal(door.catalog.openCount, 0);
});

test("pre-shared keys: libnbd, QEMU and our own client, TLS 1.3 and 1.2", { skip }, async () => {
  await using scratch = await Scratch.create();
  const key = "5f4dcc3b5aa765d61d8327deb882cf995f4dcc3b5aa765d61d8327deb882cf99";
  await mkdir(scratch.path("psk"));
  const file = `${scratch.path("psk")}/keys.psk`;
  await writeFile(file, `alice:${key}\n`);
  const presharedKeys = parsePskFile(await readFile(file, "utf8"));
  const access = [{ exportName: "db", allow: [{ pskIdentity: "alice" }] }];
  const door = await open(scratch, { clientCertificate: "none", presharedKeys }, { access });
  const uri = `nbds://alice@127.0.0.1:${door.port}/db?tls-psk-file=${file}`;
  match((await run("nbdinfo", [uri])).stdout, /with TLS/);
  const credentials = `tls-creds-psk,id=tls0,dir=${scratch.path("psk")},endpoint=client,username=alice`;
  const info = ["info", "--object", credentials, "--image-opts", qemuImage(door)];
  match((await run("qemu-img", info)).stdout, /virtual size: 64 MiB/);
  const alice = { identity: "alice", key: Buffer.from(key, "hex") };
  const nbd = await ours(door, { presharedKey: alice });
  equal((await nbd.read(0, 100_000)).length, 100_000);
  await nbd.close();
  for (const identity of new Set(door.catalog.opened.map((one) => one.client.pskIdentity)))
    equal(identity, "alice");
  const opened = door.catalog.openCount;
  await rejects(
    ours(door, { presharedKey: { ...alice, key: Buffer.from(key.replace("5", "6"), "hex") } }),
  );
  await rejects(ours(door, { presharedKey: { ...alice, identity: "mallory" } }));
  equal(door.catalog.openCount, opened);
});

test("pre-shared keys as psktool makes them", {
  skip: skip || requires("psktool --version"),
}, async () => {
  await using scratch = await Scratch.create();
  const file = scratch.path("keys.psk");
  await run("psktool", ["-u", "bob", "-p", file]);
  const presharedKeys = parsePskFile(await readFile(file, "utf8"));
  const door = await open(scratch, { clientCertificate: "none", presharedKeys });
  const uri = `nbds://bob@127.0.0.1:${door.port}/db?tls-psk-file=${file}`;
  match((await run("nbdinfo", [uri])).stdout, /with TLS/);
});

test("keys and required certificates together: either proof is enough, none is not", {
  skip,
}, async () => {
  await using scratch = await Scratch.create();
  const authority = await makeAuthority(scratch);
  const file = scratch.path("keys.psk");
  await writeFile(file, `alice:${"ab".repeat(32)}\n`);
  const presharedKeys = parsePskFile(await readFile(file, "utf8"));
  const door = await open(scratch, {
    ...(await serverSettings(authority, "required")),
    presharedKeys,
  });
  const psk = `nbds://alice@127.0.0.1:${door.port}/db?tls-psk-file=${file}`;
  match((await run("nbdinfo", [psk])).stdout, /with TLS/);
  const x509 = `nbds://localhost:${door.port}/db?tls-certificates=${authority.directory}`;
  match((await run("nbdinfo", [x509])).stdout, /with TLS/);
  const authorities = await authority.pem("ca-cert");
  await rejects(ours(door, { authorities, serverName: "localhost" }));
});

test("TLS required: a client in plain text is told so", { skip }, async () => {
  await using scratch = await Scratch.create();
  const authority = await makeAuthority(scratch);
  const door = await open(scratch, await serverSettings(authority));
  const failure = await run("nbdinfo", [`nbd://localhost:${door.port}/db`], { accept: [1] });
  match(failure.stderr, /TLS|Operation not supported/);
  equal(door.catalog.openCount, 0);
});

test("TLS required: a Unix socket does without it, and offers it", { skip }, async () => {
  await using scratch = await Scratch.create();
  const authority = await makeAuthority(scratch);
  const access = [{ exportName: "secret", needsTls: true, allow: [{}] }];
  const door = await open(scratch, await serverSettings(authority), { access });
  door.catalog.devices.set("secret", door.device);
  match((await run("nbdinfo", [door.uri])).stdout, /without TLS/);
  const hidden = await run("nbdinfo", [door.uri.replace("/db", "/secret")], { accept: [1] });
  equal(hidden.status, 1);
  const stream = await connectStream(
    { kind: "unix", path: door.socket },
    { authorities: await authority.pem("ca-cert"), serverName: "localhost" },
  );
  const nbd = await NbdClient.open(stream, { exportName: "secret", isTlsWanted: true });
  await nbd.close();
});

test("TLS optional: plain text is served, except what needs TLS", { skip }, async () => {
  await using scratch = await Scratch.create();
  const authority = await makeAuthority(scratch);
  const door = await openDoor(scratch, {
    settings: {
      tlsMode: "optional",
      tls: await serverSettings(authority),
      access: [{ exportName: "secret", needsTls: true, allow: [{}] }],
    },
  });
  door.catalog.devices.set("secret", door.device);
  match((await run("nbdinfo", [door.uri])).stdout, /without TLS/);
  const refused = await run("nbdinfo", [door.uri.replace("/db", "/secret")], { accept: [1] });
  equal(refused.status, 1);
  const { stdout } = await run("nbdinfo", ["--list", `nbd+unix:///?socket=${door.socket}`]);
  ok(stdout.includes('"db"') && !stdout.includes("secret"), stdout);
  const certificates = `tls-certificates=${authority.directory}`;
  const secret = `nbds://localhost:${door.port}/secret?${certificates}`;
  match((await run("nbdinfo", [secret])).stdout, /with TLS/);
});

test("plain text behind STARTTLS ends the connection, on a real socket", { skip }, async () => {
  await using scratch = await Scratch.create();
  const authority = await makeAuthority(scratch);
  const door = await open(scratch, await serverSettings(authority));
  const socket = connect(door.socket);
  const startTls = Buffer.from("IHAVEOPT\0\0\0\u0005\0\0\0\0");
  const list = Buffer.from("IHAVEOPT\0\0\0\u0003\0\0\0\0");
  socket.write(Buffer.concat([Buffer.from([0, 0, 0, 3]), startTls, list]));
  socket.resume();
  socket.on("error", () => {}); // a reset is as good as an end
  await until("the server hangs up", () => socket.closed);
  match(door.warnings[0] ?? "", /plain text behind STARTTLS/);
});

test("rubbish instead of a TLS handshake ends that connection alone", { skip }, async () => {
  await using scratch = await Scratch.create();
  const authority = await makeAuthority(scratch);
  const door = await open(scratch, await serverSettings(authority), { handshakeMs: 1000 });
  for (const rubbish of ["\x16\x03\x01\xff\xff", "GET / HTTP/1.0\r\n\r\n", ""]) {
    const socket = connect(door.socket);
    socket.on("error", () => {}); // a reset is as good as an end
    socket.write(
      Buffer.concat([Buffer.from([0, 0, 0, 3]), Buffer.from("IHAVEOPT\0\0\0\u0005\0\0\0\0")]),
    );
    let count = 0;
    await new Promise<void>((resolve) => {
      socket.on("data", (bytes) => {
        count += bytes.length;
        if (count >= 18 + 20) resolve();
      });
    });
    if (rubbish === "") socket.destroy();
    else socket.write(Buffer.from(rubbish, "latin1"));
    await until("the server hangs up", () => door.server.counts.open === 0);
    socket.destroy();
  }
  const nbd = await ours(door, {
    authorities: await authority.pem("ca-cert"),
    serverName: "localhost",
  });
  await nbd.close();
});
