// SPDX-License-Identifier: Apache-2.0
//
// The handshake, option by option, as bytes: what a server must answer, and what it must never believe.

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { test } from "node:test";
import type { ExportDescription } from "./block-device.ts";
import { HEADERS } from "./codec.ts";
import { INFO, OPTION, OPTION_REPLY } from "./constants.ts";
import {
  Negotiation,
  type NegotiationSettings,
  OPTION_BYTES_MAX,
  OPTION_COUNT_MAX,
  OPTION_SKIP_BYTES_MAX,
  type Step,
} from "./negotiation.ts";

const DISK: ExportDescription = {
  sizeBytes: 0x1_0000_0200,
  isReadOnly: false,
  canMultiConnect: true,
  canonicalName: "db@#7",
  description: "a disk",
};
const CONTEXTS = ["base:allocation", "qemu:dirty-bitmap:since:v1", "qemu:allocation-depth"];

class Dialogue {
  readonly negotiation: Negotiation;
  /** Whoever calls in gets this disk, by name; others are unknown. */
  readonly disks = new Map<string, ExportDescription>([["db", DISK]]);
  readonly asked: string[] = [];
  greeting = "";

  constructor(settings: Partial<NegotiationSettings> = {}, clientFlags = "00000003") {
    this.negotiation = new Negotiation({ tls: "off", needsTls: () => false, ...settings });
    this.greeting = this.#output();
    this.send(clientFlags);
  }

  /** Feeds hex; returns the last step, with questions answered on the way. */
  send(hex: string): Step {
    this.negotiation.receive(Buffer.from(hex, "hex"));
    for (;;) {
      const step = this.negotiation.step();
      if (step.kind !== "ask") return step;
      this.asked.push("exportName" in step.question ? step.question.exportName : "*");
      if (step.question.kind === "list") {
        this.negotiation.listed([{ name: "db", description: "a disk" }]);
        continue;
      }
      const disk = this.disks.get(step.question.exportName);
      if (disk === undefined) this.negotiation.refused({ kind: "unknown", message: "none" });
      else if (!("queries" in step.question)) this.negotiation.described(disk);
      else if (step.question.queries.length > 16)
        this.negotiation.refused({ kind: "too-big", message: "too many" });
      else this.negotiation.contextsFound(this.#contextsOf(step.question));
    }
  }

  #contextsOf({ kind, queries }: { kind: string; queries: readonly string[] }): string[] {
    if (kind === "list-contexts" && queries.length === 0) return CONTEXTS;
    return CONTEXTS.filter((name) => queries.includes(name));
  }

  #output(): string {
    return Buffer.concat(this.negotiation.takeOutput()).toString("hex");
  }

  /** What the server said since the last call: option reply by option reply. */
  replies(): { option: number; type: number; data: string }[] {
    const bytes = Buffer.from(this.#output(), "hex");
    const replies = [];
    for (let at = 0; at < bytes.length; ) {
      equal(bytes.toString("hex", at, at + 8), "0003e889045565a9");
      const length = bytes.readUInt32BE(at + 16);
      replies.push({
        option: bytes.readUInt32BE(at + 8),
        type: bytes.readUInt32BE(at + 12),
        data: bytes.toString("hex", at + 20, at + 20 + length),
      });
      at += 20 + length;
    }
    return replies;
  }

  types(): number[] {
    return this.replies().map((reply) => reply.type);
  }

  raw(): string {
    return this.#output();
  }
}

function hex(text: string): string {
  return Buffer.from(text).toString("hex");
}

function u16(value: number): string {
  return value.toString(16).padStart(4, "0");
}

function u32(value: number): string {
  return value.toString(16).padStart(8, "0");
}

function sized(text: string): string {
  return u32(Buffer.byteLength(text)) + hex(text);
}

function option(code: number, data = ""): string {
  return hex("IHAVEOPT") + u32(code) + u32(data.length / 2) + data;
}

function go(name: string, ...infos: number[]): string {
  return option(OPTION.GO, sized(name) + u16(infos.length) + infos.map(u16).join(""));
}

function contexts(code: number, name: string, ...queries: string[]): string {
  return option(code, sized(name) + u32(queries.length) + queries.map(sized).join(""));
}

const { ACK } = OPTION_REPLY;

test("the greeting offers fixed newstyle and no zeroes", () => {
  equal(new Dialogue().greeting, `${hex("NBDMAGICIHAVEOPT")}0003`);
});

test("GO answers size and flags, then acknowledges and goes over to transmission", () => {
  const dialogue = new Dialogue();
  const step = dialogue.send(go("db"));
  ok(step.kind === "transmit");
  deepEqual(step.agreement, {
    exportName: "db",
    headers: HEADERS.SIMPLE,
    contexts: [],
    rest: new Uint8Array(0),
  });
  deepEqual(dialogue.replies(), [
    // size, then has-flags, flush, FUA, trim, write zeroes, multi-conn, cache, fast zero
    { option: OPTION.GO, type: OPTION_REPLY.INFO, data: "0000" + "0000000100000200" + "0d6d" },
    { option: OPTION.GO, type: ACK, data: "" },
  ]);
});

test("GO answers the infos that are asked for: stable name, description, block sizes", () => {
  const dialogue = new Dialogue();
  dialogue.send(go("db", INFO.BLOCK_SIZE, INFO.NAME, INFO.DESCRIPTION, 77));
  deepEqual(
    dialogue.replies().map((reply) => reply.data),
    [
      "0000" + "0000000100000200" + "0d6d",
      `0001${hex("db@#7")}`,
      `0002${hex("a disk")}`,
      "0003" + "00000001" + "00001000" + "02000000",
      "",
    ],
  );
});

test("INFO answers as GO does, and the handshake goes on", () => {
  const dialogue = new Dialogue();
  const step = dialogue.send(option(OPTION.INFO, `${sized("db")}0000`));
  equal(step.kind, "read");
  deepEqual(dialogue.types(), [OPTION_REPLY.INFO, ACK]);
  equal(dialogue.send(go("db")).kind, "transmit");
});

test("a read-only export offers no trim and no write zeroes", () => {
  const dialogue = new Dialogue();
  dialogue.disks.set("old", { ...DISK, isReadOnly: true, canMultiConnect: false });
  dialogue.send(go("old"));
  match(dialogue.replies()[0]?.data ?? "", /040f$/); // has-flags, read-only, flush, FUA, cache
});

test("an export that isn't there is unknown, and the client may try another", () => {
  const dialogue = new Dialogue();
  dialogue.send(go("nothing"));
  deepEqual(dialogue.types(), [OPTION_REPLY.ERR_UNKNOWN]);
  equal(dialogue.send(go("db")).kind, "transmit");
});

test("EXPORT_NAME is answered with size, flags and no zeroes, if the client wants none", () => {
  const dialogue = new Dialogue();
  equal(dialogue.send(option(OPTION.EXPORT_NAME, hex("db"))).kind, "transmit");
  equal(dialogue.raw(), "0000000100000200" + "0d6d");
});

test("EXPORT_NAME is answered with 124 zeroes for a client that wants them", () => {
  const dialogue = new Dialogue({}, "00000001");
  dialogue.send(option(OPTION.EXPORT_NAME, hex("db")));
  equal(dialogue.raw(), `00000001000002000d6d${"00".repeat(124)}`);
});

test("EXPORT_NAME of an unknown export ends the connection, having no other way to say so", () => {
  const step = new Dialogue().send(option(OPTION.EXPORT_NAME, hex("nothing")));
  ok(step.kind === "end" && step.isFault);
});

test("ABORT is acknowledged and ends the connection in good order", () => {
  const dialogue = new Dialogue();
  const step = dialogue.send(option(OPTION.ABORT));
  ok(step.kind === "end" && !step.isFault);
  deepEqual(dialogue.types(), [ACK]);
});

test("LIST names every export with its description", () => {
  const dialogue = new Dialogue();
  dialogue.send(option(OPTION.LIST));
  deepEqual(dialogue.replies(), [
    { option: OPTION.LIST, type: OPTION_REPLY.SERVER, data: sized("db") + hex("a disk") },
    { option: OPTION.LIST, type: ACK, data: "" },
  ]);
});

test("options that take no data refuse any", () => {
  for (const code of [
    OPTION.LIST,
    OPTION.STARTTLS,
    OPTION.STRUCTURED_REPLY,
    OPTION.EXTENDED_HEADERS,
  ]) {
    const dialogue = new Dialogue({ tls: "optional" });
    equal(dialogue.send(option(code, "00")).kind, "read");
    deepEqual(dialogue.types(), [OPTION_REPLY.ERR_INVALID]);
  }
});

test("an unknown option is answered UNSUP and skipped", () => {
  const dialogue = new Dialogue();
  dialogue.send(option(4, "aabbcc") + option(0xfffffff0));
  deepEqual(dialogue.types(), [OPTION_REPLY.ERR_UNSUP, OPTION_REPLY.ERR_UNSUP]);
  equal(dialogue.send(go("db")).kind, "transmit");
});

test("structured replies add DF to the flags, extended headers take precedence", () => {
  const dialogue = new Dialogue();
  dialogue.send(option(OPTION.STRUCTURED_REPLY));
  deepEqual(dialogue.types(), [ACK]);
  dialogue.send(option(OPTION.INFO, `${sized("db")}0000`));
  match(dialogue.replies()[0]?.data ?? "", /0ded$/);
  dialogue.send(option(OPTION.EXTENDED_HEADERS) + option(OPTION.STRUCTURED_REPLY));
  deepEqual(dialogue.types(), [ACK, OPTION_REPLY.ERR_EXT_HEADER_REQD]);
  const step = dialogue.send(go("db"));
  ok(step.kind === "transmit" && step.agreement.headers === HEADERS.EXTENDED);
});

test("EXPORT_NAME after extended headers ends the connection", () => {
  const dialogue = new Dialogue();
  dialogue.send(option(OPTION.EXTENDED_HEADERS));
  equal(dialogue.send(option(OPTION.EXPORT_NAME, hex("db"))).kind, "end");
});

test("LIST_META_CONTEXT without queries lists all contexts", () => {
  const dialogue = new Dialogue();
  dialogue.send(option(OPTION.STRUCTURED_REPLY));
  dialogue.replies();
  dialogue.send(contexts(OPTION.LIST_META_CONTEXT, "db"));
  deepEqual(
    dialogue.replies().map((reply) => Buffer.from(reply.data, "hex").toString("latin1").slice(4)),
    [...CONTEXTS, ""],
  );
});

test("LIST_META_CONTEXT answers with ids of 0, and selects nothing", () => {
  const dialogue = new Dialogue();
  dialogue.send(option(OPTION.STRUCTURED_REPLY));
  dialogue.replies();
  dialogue.send(contexts(OPTION.LIST_META_CONTEXT, "db", "qemu:allocation-depth"));
  equal(dialogue.replies()[0]?.data, u32(0) + hex("qemu:allocation-depth"));
  const step = dialogue.send(go("db"));
  deepEqual(step.kind === "transmit" && step.agreement.contexts, []);
});

test("more queries than anybody needs are TOO_BIG, and nothing is looked up for them", () => {
  const dialogue = new Dialogue();
  dialogue.send(option(OPTION.EXTENDED_HEADERS));
  dialogue.replies();
  for (const code of [OPTION.LIST_META_CONTEXT, OPTION.SET_META_CONTEXT]) {
    dialogue.send(contexts(code, "db", ...Array.from({ length: 257 }, (_, at) => `x:${at}`)));
    deepEqual(dialogue.types(), [OPTION_REPLY.ERR_TOO_BIG]);
  }
  deepEqual(dialogue.asked, []);
});

test("more contexts than one connection may have are TOO_BIG, and none is selected", () => {
  const dialogue = new Dialogue();
  dialogue.send(option(OPTION.STRUCTURED_REPLY));
  dialogue.replies();
  const queries = Array.from({ length: 17 }, (_, index) => `x:${index}`);
  dialogue.send(contexts(OPTION.SET_META_CONTEXT, "db", ...queries));
  deepEqual(dialogue.types(), [OPTION_REPLY.ERR_TOO_BIG]);
  const step = dialogue.send(go("db"));
  deepEqual(step.kind === "transmit" && step.agreement.contexts, []);
});

test("SET_META_CONTEXT selects exact names, each with an id of its own", () => {
  const dialogue = new Dialogue();
  dialogue.send(option(OPTION.STRUCTURED_REPLY));
  dialogue.replies();
  const queries = ["qemu:allocation-depth", "base:", "base:nothing", "base:allocation"];
  dialogue.send(contexts(OPTION.SET_META_CONTEXT, "db", ...queries));
  deepEqual(dialogue.types(), [OPTION_REPLY.META_CONTEXT, OPTION_REPLY.META_CONTEXT, ACK]);
  const step = dialogue.send(go("db"));
  ok(step.kind === "transmit");
  deepEqual(step.agreement.contexts, [
    { id: 1, name: "base:allocation" },
    { id: 2, name: "qemu:allocation-depth" },
  ]);
});

test("with extended headers and contexts, the payload form of block status is offered", () => {
  const dialogue = new Dialogue();
  dialogue.send(option(OPTION.EXTENDED_HEADERS));
  dialogue.send(contexts(OPTION.SET_META_CONTEXT, "db", "base:allocation"));
  dialogue.replies();
  dialogue.send(go("db"));
  match(dialogue.replies()[0]?.data ?? "", /1ded$/);
});

test("contexts of one export don't count for another, nor after a failed SET_META_CONTEXT", () => {
  for (const second of [
    "", // GO to another export
    contexts(OPTION.SET_META_CONTEXT, "db"),
    contexts(OPTION.SET_META_CONTEXT, "nothing", "base:allocation"),
    option(OPTION.SET_META_CONTEXT, "00"),
  ]) {
    const dialogue = new Dialogue();
    dialogue.disks.set("other", DISK);
    dialogue.send(option(OPTION.STRUCTURED_REPLY));
    dialogue.send(contexts(OPTION.SET_META_CONTEXT, "db", "base:allocation"));
    dialogue.send(second);
    const step = dialogue.send(go(second === "" ? "other" : "db"));
    ok(step.kind === "transmit");
    deepEqual(step.agreement.contexts, []);
  }
});

test("metadata contexts without structured replies, or without a namespace, are invalid", () => {
  const dialogue = new Dialogue();
  dialogue.send(contexts(OPTION.SET_META_CONTEXT, "db", "base:allocation"));
  deepEqual(dialogue.types(), [OPTION_REPLY.ERR_INVALID]);
  dialogue.send(option(OPTION.STRUCTURED_REPLY));
  dialogue.replies();
  dialogue.send(contexts(OPTION.SET_META_CONTEXT, "db", "allocation"));
  deepEqual(dialogue.types(), [OPTION_REPLY.ERR_INVALID]);
});

test("lengths inside an option that don't add up are invalid, and the handshake goes on", () => {
  const dialogue = new Dialogue();
  dialogue.send(option(OPTION.STRUCTURED_REPLY));
  dialogue.replies();
  for (const bad of [
    option(OPTION.GO),
    option(OPTION.GO, `ffffffff${hex("db")}0000`),
    option(OPTION.GO, `00000003${hex("db")}0000`),
    option(OPTION.GO, `${sized("db")}0001`),
    option(OPTION.GO, `${sized("db")}000000`),
    option(OPTION.GO, "00000002" + "fffe" + "0000"), // not UTF-8
    option(OPTION.SET_META_CONTEXT, `${sized("db")}ffffffff`),
    option(OPTION.SET_META_CONTEXT, `${sized("db")}0000000100000010${hex("base:")}`),
    option(OPTION.SET_META_CONTEXT, `${sized("db")}0000000000`),
    option(OPTION.LIST_META_CONTEXT, `${sized("x".repeat(4097))}00000000`),
  ]) {
    equal(dialogue.send(bad).kind, "read");
    deepEqual(dialogue.types(), [OPTION_REPLY.ERR_INVALID], bad.slice(0, 80));
  }
  equal(dialogue.send(go("db")).kind, "transmit");
});

test("an option without its magic ends the connection before it is complete", () => {
  ok(new Dialogue().send(hex("IHAX")).kind === "end");
  ok(new Dialogue().send(hex("IHAVEOPX") + u32(3) + u32(0)).kind === "end");
});

test("client flags that were not offered end the connection", () => {
  const step = new Dialogue({}, "00000007").send("");
  ok(step.kind === "end" && step.isFault);
});

test("a long option is too big and skipped, a longer one ends the connection", () => {
  const dialogue = new Dialogue();
  const long = OPTION_BYTES_MAX + 1;
  dialogue.send(hex("IHAVEOPT") + u32(OPTION.GO) + u32(long));
  deepEqual(dialogue.types(), [OPTION_REPLY.ERR_TOO_BIG]);
  for (let sent = 0; sent < long; sent += 4096) {
    dialogue.send("aa".repeat(Math.min(4096, long - sent)));
  }
  equal(dialogue.send(go("db")).kind, "transmit");
  const step = new Dialogue().send(
    hex("IHAVEOPT") + u32(OPTION.GO) + u32(OPTION_SKIP_BYTES_MAX + 1),
  );
  ok(step.kind === "end" && step.isFault);
});

test("an export name that is too long ends the connection", () => {
  equal(new Dialogue().send(option(OPTION.EXPORT_NAME, "61".repeat(4097))).kind, "end");
  const header = hex("IHAVEOPT") + u32(OPTION.EXPORT_NAME) + u32(OPTION_BYTES_MAX + 1);
  equal(new Dialogue().send(header).kind, "end");
});

test("too many options end the connection", () => {
  const dialogue = new Dialogue();
  let step: Step = { kind: "read" };
  let count = 0;
  while (step.kind === "read" && count <= OPTION_COUNT_MAX) {
    step = dialogue.send(option(99));
    dialogue.raw();
    count += 1;
  }
  equal(step.kind, "end");
  equal(count, OPTION_COUNT_MAX + 1);
});

test("requests right behind GO are handed on to the transmission phase", () => {
  const step = new Dialogue().send(`${go("db")}25609513`);
  ok(step.kind === "transmit");
  equal(Buffer.from(step.agreement.rest).toString("hex"), "25609513");
});

test("a client that sends on and on while it is asked to wait is ended", () => {
  const { negotiation } = new Dialogue();
  negotiation.receive(Buffer.from(option(OPTION.LIST), "hex"));
  equal(negotiation.step().kind, "ask");
  for (let count = 0; count < 17; count++) negotiation.receive(new Uint8Array(64 << 10));
  equal(negotiation.step().kind, "end");
  negotiation.listed([]); // the answer comes too late and changes nothing
  equal(negotiation.step().kind, "end");
});

test("TLS off: STARTTLS is against the policy", () => {
  const dialogue = new Dialogue();
  dialogue.send(option(OPTION.STARTTLS));
  deepEqual(dialogue.types(), [OPTION_REPLY.ERR_POLICY]);
});

test("TLS required: nothing but STARTTLS and ABORT is answered in plain text", () => {
  const dialogue = new Dialogue({ tls: "required" });
  dialogue.send(
    option(OPTION.LIST) + option(OPTION.STRUCTURED_REPLY) + option(99) + go("db") + go("nothing"),
  );
  deepEqual(dialogue.types(), new Array(5).fill(OPTION_REPLY.ERR_TLS_REQD));
  deepEqual(dialogue.asked, []);
  equal(dialogue.send(option(OPTION.EXPORT_NAME, hex("db"))).kind, "end");
  const aborting = new Dialogue({ tls: "required" }).send(option(OPTION.ABORT));
  ok(aborting.kind === "end" && !aborting.isFault);
});

test("STARTTLS drops everything that was agreed on before", () => {
  const dialogue = new Dialogue({ tls: "optional" });
  dialogue.send(option(OPTION.EXTENDED_HEADERS));
  dialogue.send(contexts(OPTION.SET_META_CONTEXT, "db", "base:allocation"));
  equal(dialogue.send(option(OPTION.STARTTLS)).kind, "start-tls");
  dialogue.negotiation.tlsStarted();
  const step = dialogue.send(go("db"));
  ok(step.kind === "transmit");
  equal(step.agreement.headers, HEADERS.SIMPLE);
  deepEqual(step.agreement.contexts, []);
});

test("plain text behind STARTTLS ends the connection (CVE-2021-3716)", () => {
  const dialogue = new Dialogue({ tls: "required" });
  const step = dialogue.send(option(OPTION.STARTTLS) + go("db"));
  ok(step.kind === "end" && step.isFault);
  match(step.reason, /plain text/);
  deepEqual(dialogue.asked, []);
});

test("a second STARTTLS is invalid", () => {
  const dialogue = new Dialogue({ tls: "required" });
  dialogue.send(option(OPTION.STARTTLS));
  dialogue.negotiation.tlsStarted();
  dialogue.replies();
  dialogue.send(option(OPTION.STARTTLS));
  deepEqual(dialogue.types(), [OPTION_REPLY.ERR_INVALID]);
});

test("TLS optional: an export that needs TLS is hidden without it and open with it", () => {
  const settings = { tls: "optional", needsTls: (name: string) => name === "db" } as const;
  const dialogue = new Dialogue(settings);
  dialogue.disks.set("plain", DISK);
  dialogue.send(option(OPTION.STRUCTURED_REPLY));
  dialogue.replies();
  dialogue.send(option(OPTION.LIST));
  deepEqual(dialogue.types(), [ACK]);
  dialogue.send(contexts(OPTION.LIST_META_CONTEXT, "db"));
  deepEqual(dialogue.types(), [OPTION_REPLY.ERR_POLICY]); // TLS_REQD is for INFO and GO alone
  dialogue.send(option(OPTION.INFO, `${sized("db")}0000`) + go("db"));
  deepEqual(dialogue.types(), [OPTION_REPLY.ERR_TLS_REQD, OPTION_REPLY.ERR_TLS_REQD]);
  equal(new Dialogue(settings).send(option(OPTION.EXPORT_NAME, hex("db"))).kind, "end");
  dialogue.send(option(OPTION.STARTTLS));
  dialogue.negotiation.tlsStarted();
  equal(dialogue.send(go("db")).kind, "transmit");
});

test("TLS required: a client without fixed newstyle can't be served", () => {
  equal(new Dialogue({ tls: "required" }, "00000002").send("").kind, "end");
});

test("refusals are told in the protocol's words", () => {
  for (const [kind, type] of [
    ["unknown", OPTION_REPLY.ERR_UNKNOWN],
    ["policy", OPTION_REPLY.ERR_POLICY],
    ["tls", OPTION_REPLY.ERR_TLS_REQD],
    ["shutdown", OPTION_REPLY.ERR_SHUTDOWN],
    ["failed", OPTION_REPLY.ERR_PLATFORM],
  ] as const) {
    const dialogue = new Dialogue();
    dialogue.negotiation.receive(Buffer.from(go("db"), "hex"));
    equal(dialogue.negotiation.step().kind, "ask");
    dialogue.negotiation.refused({ kind, message: "why" });
    deepEqual(dialogue.replies(), [{ option: OPTION.GO, type, data: hex("why") }]);
    equal(dialogue.negotiation.step().kind, "read");
  }
});
