// SPDX-License-Identifier: Apache-2.0
//
// The handshake's parser, fed whole, in pieces, and with noise.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { OPTION } from "./constants.ts";
import { CONTEXT_COUNT_MAX, INPUT_BYTES_MAX, Negotiation, type TlsMode } from "./negotiation.ts";

const DISK = {
  sizeBytes: 1 << 20,
  isReadOnly: false,
  canMultiConnect: true,
  canonicalName: "db",
  description: "",
};

interface Outcome {
  readonly output: string;
  readonly end: string;
}

/** Feeds the pieces and answers every question; what came out and how it ended. */
function run(tls: TlsMode, pieces: readonly Uint8Array[]): Outcome {
  const negotiation = new Negotiation({ tls, needsTls: () => false });
  const output: Uint8Array[] = [];
  let end = "open";
  for (const piece of pieces) {
    negotiation.receive(piece);
    for (let steps = 0; end === "open"; steps++) {
      ok(steps < 100_000, "the handshake doesn't end");
      const step = negotiation.step();
      output.push(...negotiation.takeOutput());
      if (step.kind === "read") break;
      if (step.kind === "start-tls") negotiation.tlsStarted();
      else if (step.kind !== "ask") end = step.kind === "end" ? step.reason : step.kind;
      else if (step.question.kind === "list")
        negotiation.listed([{ name: "db", description: "d" }]);
      else if (step.question.exportName === "db" && "queries" in step.question)
        negotiation.contextsFound(step.question.queries.slice(0, CONTEXT_COUNT_MAX));
      else if (step.question.exportName === "db") negotiation.described(DISK);
      else negotiation.refused({ kind: "unknown", message: "none" });
    }
  }
  return { output: Buffer.concat(output).toString("hex"), end };
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

const name = fc.constantFrom("db", "", "nothing", "\u00e9".repeat(70));
const sized = (text: string): Buffer =>
  Buffer.concat([u32(Buffer.byteLength(text)), Buffer.from(text)]);

/** What a real client might send, and what it shouldn't. */
const data = fc.oneof(
  fc.constant(Buffer.alloc(0)),
  name.map((text) => Buffer.from(text)),
  fc
    .tuple(name, fc.array(fc.nat(5), { maxLength: 5 }))
    .map(([text, infos]) =>
      Buffer.concat([
        sized(text),
        Buffer.from([0, infos.length]),
        ...infos.map((info) => Buffer.from([0, info])),
      ]),
    ),
  fc
    .tuple(
      name,
      fc.array(fc.constantFrom("base:allocation", "base:", "x:y", "none"), { maxLength: 4 }),
    )
    .map(([text, queries]) =>
      Buffer.concat([sized(text), u32(queries.length), ...queries.map(sized)]),
    ),
  fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
);

const option = fc
  .tuple(fc.oneof(fc.constantFrom(...Object.values(OPTION)), fc.nat(30)), data)
  .map(([code, payload]) =>
    Buffer.concat([Buffer.from("IHAVEOPT"), u32(code), u32(payload.length), payload]),
  );

const stream = fc
  .tuple(fc.constantFrom(0, 1, 2, 3, 3, 3, 3, 7), fc.array(option, { maxLength: 8 }))
  .map(([flags, options]) => Buffer.concat([u32(flags), ...options]));

const mode = fc.constantFrom<TlsMode>("off", "optional", "required");

test("a handshake means the same whole and byte by byte", () => {
  fc.assert(
    fc.property(stream, (bytes) => {
      // Without TLS: plain text behind STARTTLS is an attack in one chunk and a handshake in two.
      const whole = run("off", [bytes]);
      deepEqual(
        run(
          "off",
          [...bytes].map((byte) => Uint8Array.of(byte)),
        ),
        whole,
      );
    }),
    { numRuns: 300 },
  );
});

test("no handshake breaks the server, whatever is sent and however it is cut", () => {
  fc.assert(
    fc.property(
      mode,
      fc.oneof(
        stream,
        fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
      ),
      fc.array(fc.nat(200), { maxLength: 10 }),
      fc.array(fc.tuple(fc.nat(400), fc.nat(255)), { maxLength: 4 }),
      (tls, bytes, cuts, flips) => {
        const damaged = Buffer.from(bytes);
        for (const [at, value] of flips) if (at < damaged.length) damaged[at] = value;
        const sorted = [...cuts, 0, damaged.length].sort((a, b) => a - b);
        const pieces = sorted.slice(1).map((end, index) => damaged.subarray(sorted[index], end));
        run(tls, pieces);
      },
    ),
    { numRuns: 2000 },
  );
});

/** Bytes in the place of a name, as GO and EXPORT_NAME carry it: often moments, sometimes no text at all. */
const nameBytes = fc.oneof(
  fc.uint8Array({ maxLength: 80 }),
  fc.uint8Array({ minLength: 4090, maxLength: 4100 }),
  fc.integer({ min: 4090, max: 4100 }).map((count) => Buffer.alloc(count, "db@")),
  fc
    .array(
      fc.constantFrom(
        "db",
        "@",
        "#",
        "-",
        "10m",
        "lsn:",
        "flush:",
        "é",
        "\ufeff",
        "\0",
        "9".repeat(40),
      ),
      {
        maxLength: 6,
      },
    )
    .map((parts) => Buffer.from(parts.join(""))),
);

test("whatever stands in the place of a name, it is asked for as it is or refused", () => {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  fc.assert(
    fc.property(nameBytes, fc.constantFrom(OPTION.GO, OPTION.EXPORT_NAME), (bytes, code) => {
      const payload =
        code === OPTION.GO
          ? Buffer.concat([u32(bytes.length), bytes, Buffer.from([0, 0])])
          : Buffer.from(bytes);
      const negotiation = new Negotiation({ tls: "off", needsTls: () => false });
      const head = [u32(3), Buffer.from("IHAVEOPT"), u32(code), u32(payload.length)];
      negotiation.receive(Buffer.concat([...head, payload]));
      const step = negotiation.step();
      let text: string | undefined;
      try {
        text = bytes.length > 4096 ? undefined : decoder.decode(bytes);
      } catch {
        text = undefined;
      }
      if (text === undefined) equal(step.kind, code === OPTION.GO ? "read" : "end");
      else ok(step.kind === "ask" && step.question.kind === "open");
      if (step.kind === "ask" && "exportName" in step.question) {
        equal(step.question.exportName, text);
      }
    }),
    { numRuns: 1000 },
  );
});

test("a handshake never holds more than its bound", () => {
  const negotiation = new Negotiation({ tls: "off", needsTls: () => false });
  negotiation.receive(Buffer.concat([u32(3), Buffer.from("IHAVEOPT"), u32(3), u32(0)]));
  ok(negotiation.step().kind === "ask");
  const noise = new Uint8Array(64 << 10);
  const before = process.memoryUsage().arrayBuffers;
  for (let count = 0; count < 1000; count++) negotiation.receive(noise);
  ok(process.memoryUsage().arrayBuffers - before < 8 * INPUT_BYTES_MAX);
  ok(negotiation.step().kind === "end");
});
