// SPDX-License-Identifier: Apache-2.0
//
// Settings: who wins over whom, what is refused, and with which words.

import { deepEqual, equal, throws } from "node:assert/strict";
import { test } from "node:test";
import { SETTING_NAMES, SETTINGS, type SettingName } from "../api/settings.ts";
import { hasCode } from "../base/errors.ts";
import { type DaemonSettings, loadSettings } from "./settings.ts";

interface Sources {
  flags?: Partial<Record<SettingName, string>>;
  environment?: Record<string, string>;
  toml?: string;
}

function load({ flags = {}, environment = {}, toml }: Sources = {}): DaemonSettings {
  return loadSettings({
    flags,
    environment: (name) => environment[name],
    environmentNames: Object.keys(environment),
    file: toml === undefined ? undefined : { path: "varve.toml", text: toml },
    defaultPool: "varve-pool",
  });
}

function refuses(sources: Sources, text: RegExp): void {
  throws(
    () => load(sources),
    (error) => hasCode(error, "CONFIG_INVALID") && text.test(`${error.message} | ${error.hint}`),
    JSON.stringify(sources),
  );
}

test("the defaults are those of the table", () => {
  const settings = load();
  equal(settings.pool, "varve-pool");
  equal(settings.memoryBytes, 1024 ** 3);
  equal(settings.poolSizeBytes, undefined, "what the pool says");
  equal(settings.dedupMemoryBytes, 0, "the usual share");
  deepEqual(settings.listen, [{ host: "127.0.0.1", port: 10809 }]);
  equal(settings.ack, "written");
  equal(settings.segmentBytes, 64 * 1024 ** 2);
  equal(settings.socketMode, 0o600);
  deepEqual(settings.access, []);
});

test("a flag wins over the environment, the environment over the file", () => {
  const toml = 'memory = "512M"\nack = "durable"\nlog-level = "warn"';
  const environment = { VARVE_MEMORY: "768M", VARVE_ACK: "memory" };
  const settings = load({ toml, environment, flags: { memory: "2G" } });
  equal(settings.memoryBytes, 2 * 1024 ** 3);
  equal(settings.ack, "memory");
  equal(settings.logLevel, "warn");
});

test("a file may write numbers, booleans and lists", () => {
  const toml = 'memory = 536870912\nlisten = ["127.0.0.1:1", "[::1]:2"]\nexit-with-parent = true';
  const settings = load({ toml });
  equal(settings.memoryBytes, 512 * 1024 ** 2);
  deepEqual(settings.listen, [
    { host: "127.0.0.1", port: 1 },
    { host: "::1", port: 2 },
  ]);
  equal(settings.isBoundToParent, true);
  deepEqual(load({ toml: "listen = []" }).listen, []);
  deepEqual(load({ toml: 'listen = "none"' }).listen, []);
});

test("an unknown key is refused with the nearest known one", () => {
  refuses({ toml: 'memroy = "1G"' }, /memroy.*did you mean "memory"/);
  refuses({ toml: "[export.db]\nallow = []" }, /did you mean "exports"/);
  refuses({ toml: "[exports.db]\nalow = []" }, /did you mean "exports.db.allow"/);
  refuses({ toml: "xyz = 1" }, /the keys are pool, listen/);
});

test("a value out of its limits is refused with the limit", () => {
  refuses({ flags: { memory: "1K" } }, /--memory.*less than 256M/);
  refuses({ flags: { memory: "5G" } }, /more than 4G/);
  refuses({ flags: { "pool-size": "1M" } }, /less than 256M/);
  equal(load({ flags: { "pool-size": "0" } }).poolSizeBytes, 0);
  refuses({ flags: { "dedup-memory": "0" } }, /less than 4M/);
  refuses({ flags: { "dedup-memory": "1G" } }, /dedup-memory: 1G refused.*half of memory.* 1G/);
  equal(load({ flags: { "dedup-memory": "512M" } }).dedupMemoryBytes, 512 * 1024 ** 2);
  refuses({ flags: { "clients-max": "0" } }, /less than 1/);
  refuses({ flags: { "handshake-timeout": "1ms" } }, /less than 100 ms/);
  refuses({ environment: { VARVE_ACK: "never" } }, /VARVE_ACK.*none of written, memory, durable/);
});

test("what isn't TOML, or of the wrong shape, is refused with the line or the key", () => {
  refuses({ toml: "memory = " }, /line 1/);
  refuses({ toml: "x = 1\nx = 2" }, /line 2/);
  refuses({ toml: "memory = { a = 1 }" }, /memory.*neither a text/);
  refuses({ toml: "exports = 3" }, /exports.*isn't a table/);
  refuses({ toml: "[exports]\ndb = 3" }, /exports.db.*isn't a table/);
});

test("access lists say who, and what isn't a condition is refused", () => {
  const toml = `[exports.db]
allow = ["uid:1000", "certificate:backup address:10.0.0.0/8", "everyone"]
needs-tls = true
[exports."*"]
allow = []`;
  deepEqual(load({ toml }).access, [
    {
      exportName: "db",
      needsTls: true,
      allow: [{ unixUid: 1000 }, { certificateName: "backup", address: "10.0.0.0/8" }, {}],
    },
    { exportName: "*", needsTls: false, allow: [] },
  ]);
  for (const entry of ["", "user:bob", "uid:", "uid:x", "alice", "uid:1 x"]) {
    refuses({ toml: `[exports.db]\nallow = ["${entry}"]` }, /isn't a condition/);
  }
  refuses({ toml: '[exports.db]\nallow = "everyone"' }, /isn't a list/);
});

test("TLS and the control door over TCP must be complete", () => {
  refuses({ flags: { tls: "required" } }, /neither a certificate nor a pre-shared key/);
  refuses({ flags: { "tls-certificate": "a" } }, /tls-key.*missing/);
  refuses({ flags: { "tls-ca": "a" } }, /client certificates need one/);
  refuses({ flags: { "http-listen": "127.0.0.1:1" } }, /needs a token and TLS/);
  const flags = { "tls-certificate": "c", "tls-key": "k", "http-token-file": "t" };
  const { http } = load({ flags: { ...flags, "http-listen": "[::]:7070" } });
  deepEqual(http, { address: { host: "::", port: 7070 }, tokenFile: "t" });
});

test("addresses have a host and a port", () => {
  for (const text of ["localhost", ":10809", "127.0.0.1:70000", "a b:1", "[::1]", "1:2:3"]) {
    refuses({ flags: { listen: text } }, /isn't HOST:PORT/);
  }
});

test("hooks run by event", () => {
  const { hooks } = load({ flags: { "hook-before-attach": "/bin/check", "hook-timeout": "2s" } });
  deepEqual(hooks, { commands: { "before-attach": ["/bin/check"] }, timeoutMs: 2000 });
});

test("every setting has a help, a reason and, where it is a number, a limit", () => {
  for (const name of SETTING_NAMES) {
    const { help, reason, type, least } = SETTINGS[name];
    equal(help.length > 10 && reason.length > 10, true, name);
    if (type === "size" || type === "count" || type === "duration")
      equal(least !== undefined, true, name);
  }
});

test("a variable that is no setting is refused with the nearest name, other programs' are not", () => {
  refuses({ environment: { VARVE_MEMROY: "1G" } }, /VARVE_MEMROY: .*did you mean VARVE_MEMORY/);
  refuses({ environment: { VARVE_PORT: "10810" } }, /VARVE_PORT/);
  load({
    environment: {
      VARVE_CONFIG: "varve.toml",
      VARVE_EVENT: "after-attach",
      VARVE_TOOLS_CACHE: "/var/cache",
      VARVE_PORT: "tcp://10.0.0.1:10809",
      VARVE_PORT_10809_TCP_ADDR: "10.0.0.1",
      VARVE_SERVICE_PORT_NBD: "10809",
    },
  });
});

test("a text that isn't closed is called that, with its place", () => {
  for (const rest of ["", "\n", "\r\n", "\nlisten = 'none'\n"]) {
    refuses(
      { toml: `\nmemory = "1G${rest}` },
      /line 2 column \d+: .*isn't closed .*quotation mark/,
    );
  }
  refuses({ toml: 'description = "a\u0001b"' }, /line 1 column 17: .*control characters/);
});
