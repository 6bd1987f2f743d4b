// SPDX-License-Identifier: Apache-2.0
//
// The daemon as the machine sees it: how it is started (systemd's sockets, its word that it is ready),
// how it ends (signals, a bad disk, a lost parent), and who gets in (TLS, tokens, access lists, hooks).

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { test } from "node:test";
import { closed, programEnv, run, until } from "../interop/command.ts";
import { Scratch } from "../interop/scratch.ts";
import { VARVE } from "../interop/server.ts";

interface Started {
  readonly child: ChildProcess;
  readonly ended: Promise<number>;
  readonly stdout: () => string;
  readonly stderr: () => string;
}

/** Starts the daemon on the pool in `scratch`, and waits until it answers unless told not to. */
async function start(
  scratch: Scratch,
  args: readonly string[],
  options: { env?: NodeJS.ProcessEnv; wrapper?: readonly string[]; isAwaited?: boolean } = {},
): Promise<Started> {
  const [command, ...words] = [
    ...(options.wrapper ?? []),
    VARVE,
    "serve",
    "--pool",
    scratch.path("pool"),
    "--memory",
    "256M",
    ...args,
  ];
  const child = spawn(command!, words, {
    env: programEnv(options.env),
    stdio: ["ignore", "pipe", "pipe"],
  });
  const output = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name].setEncoding("utf8").on("data", (text: string) => {
      output[name] += text;
    });
  }
  const ended = closed(child);
  let hasEnded = false;
  void ended.then(() => {
    hasEnded = true;
  });
  scratch.defer("daemon", async () => {
    child.kill("SIGKILL");
    await ended;
  });
  if (options.isAwaited !== false) {
    await until("the daemon answers", () => hasEnded || output.stdout.includes("ready"));
    ok(!hasEnded, output.stderr);
  }
  return { child, ended, stdout: () => output.stdout, stderr: () => output.stderr };
}

function varve(scratch: Scratch, ...args: string[]): Promise<{ stdout: string }> {
  return run(VARVE, [...args, "--pool", scratch.path("pool")]);
}

function socketUri(scratch: Scratch, name = "db"): string {
  return `nbd+unix:///${name}?socket=${scratch.path("pool/nbd.sock")}`;
}

test("SIGTERM and SIGINT end it with 0, sockets removed, everything flushed", async () => {
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    await using scratch = await Scratch.create();
    const daemon = await start(scratch, ["--listen", "none"]);
    await varve(scratch, "create", "db", "16M");
    daemon.child.kill(signal);
    equal(await daemon.ended, 0);
    ok(
      !existsSync(scratch.path("pool/control.sock")) && !existsSync(scratch.path("pool/nbd.sock")),
    );
    match((await varve(scratch, "check")).stdout, /result: +sound/);
  }
});

test("a bad disk ends it with 1 and one clear line, and the pool is sound afterwards", async () => {
  await using scratch = await Scratch.create();
  const wrapper = ["prlimit", "--fsize=50000000"];
  const daemon = await start(scratch, ["--listen", "none"], { wrapper });
  await varve(scratch, "create", "db", "1G");
  const write = "import os\nfor i in range(200): h.pwrite(os.urandom(1 << 20), i << 20)";
  await run("nbdsh", ["-u", socketUri(scratch), "-c", write], { accept: [1] });
  equal(await daemon.ended, 1);
  const lines = daemon.stderr().split("\n");
  equal(lines.filter((line) => line.startsWith("varve: error:")).length, 1);
  match(
    daemon.stderr(),
    /varve: error: .*write of \d+ bytes at \d+ failed: file too large \(EFBIG\) \[DISK_IO\]/,
  );
  match((await varve(scratch, "check")).stdout, /result: +sound/);
});

test("with --exit-with-parent it stops when its parent has ended", async () => {
  await using scratch = await Scratch.create();
  // The shell stays the parent, as `&` alone doesn't exec.
  const command = `"${VARVE}" serve --pool "${scratch.path("pool")}" --listen none --memory 256M --exit-with-parent > "${scratch.path("out")}" 2>&1 & sleep 30`;
  const shell = spawn("sh", ["-c", command], { env: programEnv(), stdio: "ignore" });
  const socket = scratch.path("pool/control.sock");
  await until("the daemon answers", () => existsSync(socket));
  await until("the daemon is ready", () =>
    readFileSync(scratch.path("out"), "utf8").includes("ready"),
  );
  shell.kill("SIGKILL");
  await until("the daemon has ended", () => !existsSync(socket));
  const said = (text: string): boolean => readFileSync(scratch.path("out"), "utf8").includes(text);
  await until("it has ended", () => said("daemon.ended"));
  ok(said("the parent process ended"));
});

test("systemd's sockets are taken over, and its word is sent when ready", async () => {
  await using scratch = await Scratch.create();
  const path = scratch.path("activated.sock");
  mkdirSync(scratch.path("bin"));
  const notify = scratch.path("bin/systemd-notify");
  writeFileSync(notify, `#!/bin/sh\necho "$@" >> "${scratch.path("notified")}"\n`);
  chmodSync(notify, 0o755);
  const activate = [
    "import os, socket, sys",
    "s = socket.socket(socket.AF_UNIX)",
    "s.bind(sys.argv[1]); s.listen(16)",
    "os.dup2(s.fileno(), 3)",
    "os.set_inheritable(3, True)",
    'os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))',
    "os.execv(sys.argv[2], sys.argv[2:])",
  ].join("\n");
  const daemon = await start(scratch, ["--json"], {
    wrapper: ["/usr/bin/python3", "-c", activate, path],
    env: { NOTIFY_SOCKET: "/nowhere", PATH: `${scratch.path("bin")}:${programEnv().PATH}` },
  });
  const { listeners } = JSON.parse(daemon.stdout().split("\n")[0]!) as { listeners: string[] };
  // It takes the place of the TCP address.
  deepEqual(listeners, [
    `nbd+unix:///?socket=${path}`,
    `nbd+unix:///?socket=${scratch.path("pool/nbd.sock")}`,
  ]);
  await varve(scratch, "create", "db", "16M");
  equal(
    (await run("nbdinfo", ["--size", `nbd+unix:///db?socket=${path}`])).stdout.trim(),
    "16777216",
  );
  daemon.child.kill("SIGTERM");
  equal(await daemon.ended, 0);
  const words = readFileSync(scratch.path("notified"), "utf8").trim().split("\n");
  match(words[0]!, /^--pid=\d+ READY=1$/);
  match(words[1]!, /^--pid=\d+ STOPPING=1$/);
  ok(existsSync(path), "a socket of systemd's is not removed");
});

test("a TCP port that is taken is said, and the exit code is 11", async () => {
  await using scratch = await Scratch.create();
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as { port: number };
  const daemon = await start(scratch, ["--listen", `127.0.0.1:${port}`], { isAwaited: false });
  equal(await daemon.ended, 11);
  match(
    daemon.stderr(),
    new RegExp(`varve: error: address 127.0.0.1:${port}.*EADDRINUSE.*LISTEN_FAILED`),
  );
  match(daemon.stderr(), /varve: hint: /);
  server.close();
});

test("the control door over TCP wants its token, and speaks TLS only", async () => {
  await using scratch = await Scratch.create();
  const [certificate, key, token] = ["cert.pem", "key.pem", "token"].map((name) =>
    scratch.path(name),
  );
  const subject = ["-subj", "/CN=localhost", "-days", "2", "-nodes"];
  await run("openssl", [
    "req",
    "-x509",
    "-newkey",
    "rsa:2048",
    ...subject,
    "-keyout",
    key!,
    "-out",
    certificate!,
  ]);
  writeFileSync(token!, "0123456789abcdef0123456789abcdef\n");
  const tls = ["--tls-certificate", certificate!, "--tls-key", key!];
  const door = ["--http-listen", "127.0.0.1:0", "--http-token-file", token!];
  const daemon = await start(scratch, ["--listen", "none", ...tls, ...door]);
  await until("the log says where", () => daemon.stderr().includes("https://"));
  const url = /https:\/\/127\.0\.0\.1:\d+/.exec(daemon.stderr())?.[0];
  const ask = async (...headers: string[]): Promise<string> => {
    const script = `const https = require("node:https");
      const [url, ...headers] = process.argv.slice(1);
      https.get(url + "/v1/pool", { rejectUnauthorized: false, headers: headers[0] ? { authorization: headers[0] } : {} },
        (r) => { console.log(r.statusCode); r.resume(); }).on("error", (e) => console.log(e.code));`;
    return (await run(process.execPath, ["-e", script, url!, ...headers])).stdout.trim();
  };
  equal(await ask(), "403");
  equal(await ask("Bearer wrong"), "403");
  equal(await ask("Bearer 0123456789abcdef0123456789abcdef"), "200");
  const plain = await run(process.execPath, [
    "-e",
    `require("node:http").get("${url!.replace("https", "http")}/v1/pool").on("error", (e) => console.log(e.code))`,
  ]);
  match(plain.stdout, /ECONNRESET|EPROTO/);
  daemon.child.kill("SIGTERM");
  equal(await daemon.ended, 0);
});

test("NBD over TCP with TLS required: a key opens it, plain text doesn't, local sockets need none", async () => {
  await using scratch = await Scratch.create();
  const keys = scratch.path("keys.psk");
  await run("psktool", ["-u", "alice", "-p", keys]);
  const daemon = await start(scratch, [
    "--listen",
    "127.0.0.1:0",
    "--tls",
    "required",
    "--tls-psk-file",
    keys,
  ]);
  await varve(scratch, "create", "db", "16M");
  const tcp = /nbds:\/\/(127\.0\.0\.1:\d+)/.exec(daemon.stdout())?.[1];
  const plain = await run("nbdinfo", ["--size", `nbd://${tcp}/db`], { accept: [1] });
  match(plain.stderr, /TLS|tls/);
  const secret = `nbds://alice@${tcp}/db?tls-psk-file=${keys}`;
  equal((await run("nbdinfo", ["--size", secret])).stdout.trim(), "16777216");
  equal((await run("nbdinfo", ["--size", socketUri(scratch)])).stdout.trim(), "16777216");
  match((await varve(scratch, "info", "db")).stdout, new RegExp(`nbds://${tcp}/db`));
});

test("access lists and hooks decide who attaches, and the refusal names neither", async () => {
  await using scratch = await Scratch.create();
  const hook = scratch.path("hook");
  writeFileSync(
    hook,
    `#!/bin/sh\necho "$VARVE_EVENT $VARVE_EXPORT $VARVE_CLIENT_UID" >> "${scratch.path("hooks")}"\n[ "$VARVE_EXPORT" != web ]\n`,
  );
  chmodSync(hook, 0o755);
  const uid = process.getuid?.() ?? 0;
  writeFileSync(
    scratch.path("varve.toml"),
    `hook-before-attach = "${hook}"\n[exports.db]\nallow = ["uid:${uid}"]\n[exports.secret]\nallow = ["uid:${uid + 1}"]\n`,
  );
  await start(scratch, ["--listen", "none", "--config", scratch.path("varve.toml")]);
  for (const name of ["db", "secret", "web"]) await varve(scratch, "create", name, "16M");
  equal((await run("nbdinfo", ["--size", socketUri(scratch)])).stdout.trim(), "16777216");
  for (const name of ["secret", "web"]) {
    await run("nbdinfo", ["--size", socketUri(scratch, name)], { accept: [1] });
  }
  const lines = readFileSync(scratch.path("hooks"), "utf8").trim().split("\n");
  ok(lines.includes(`before-attach db ${uid}`) && lines.includes(`before-attach web ${uid}`));
  ok(!lines.some((line) => line.includes("secret")));
});

test("sockets have the permissions that were asked for", async () => {
  await using scratch = await Scratch.create();
  await start(scratch, ["--listen", "none", "--socket-mode", "0666"]);
  equal(statSync(scratch.path("pool/nbd.sock")).mode & 0o777, 0o666);
  equal(statSync(scratch.path("pool/control.sock")).mode & 0o777, 0o600);
});
