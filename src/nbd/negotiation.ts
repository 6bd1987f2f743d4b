// SPDX-License-Identifier: Apache-2.0
//
// The server's side of the fixed-newstyle handshake, without a socket: bytes go in, and step() says what
// the shell has to do next (send, ask the catalog, start TLS, go over to transmission, hang up). All
// known vulnerabilities of NBD servers were in this phase, so that it is plain and bounded: one option at
// a time, every length checked before it is believed, no memory before the bytes are there.
//
//   greeting → client flags → option* → GO or EXPORT_NAME → transmission
//                               └ STARTTLS → (TLS) → client starts over with options, all state dropped
//
// An option that needs the catalog is put as a question; the answer continues the handshake. Whatever a
// client sends meanwhile waits, within INPUT_BYTES_MAX. Bytes behind a STARTTLS were sent in plain text by
// somebody who may not be the client: they end the connection (CVE-2021-3716).

import { assert } from "../base/assert.ts";
import type { ExportDescription, ExportEntry } from "./block-device.ts";
import { HEADERS, type Headers } from "./codec.ts";
import {
  HANDSHAKE_FLAG,
  OPTION,
  OPTION_MAGIC,
  OPTION_REPLY,
  STRING_BYTES_MAX,
  TRANSMISSION_FLAG,
  WIRE,
} from "./constants.ts";
import {
  decodeText,
  encodeContextReply,
  encodeExportReply,
  encodeGreeting,
  encodeInfoReplies,
  encodeOptionError,
  encodeOptionReply,
  encodeServerReply,
  type InfoRequest,
  parseContextQuery,
  parseInfoRequest,
} from "./option-codec.ts";

/** "optional" is the specification's SELECTIVETLS, "required" its FORCEDTLS. */
export type TlsMode = "off" | "optional" | "required";

/** Longest option that is looked at: a name, and fifteen context queries of the longest kind. */
export const OPTION_BYTES_MAX: number = 64 << 10;
/** Longest option that is skipped to answer it with an error; a longer one isn't a client's mistake. */
export const OPTION_SKIP_BYTES_MAX: number = 1 << 20;
/** Options in one handshake: nobody needs more than three per export that is listed. */
export const OPTION_COUNT_MAX = 4096;
/** Bytes that may wait while a question is answered. */
export const INPUT_BYTES_MAX: number = 1 << 20;
/** Queries in one option about metadata contexts: each is looked up, or compared with all that there is to list. */
const CONTEXT_QUERIES_MAX = 256;
/** Metadata contexts that one connection may select. */
export const CONTEXT_COUNT_MAX = 16;

export interface NegotiationSettings {
  readonly tls: TlsMode;
  /** Exports that are only to be had over TLS (with tls "optional"). */
  readonly needsTls: (exportName: string) => boolean;
}

export interface MetaContext {
  readonly id: number;
  readonly name: string;
}

/** What both sides agreed on. */
export interface Agreement {
  readonly exportName: string;
  readonly headers: Headers;
  readonly contexts: readonly MetaContext[];
  /** Bytes that arrived behind the last option: the first requests. */
  readonly rest: Uint8Array;
}

export type Question =
  | { readonly kind: "list" }
  | { readonly kind: "describe"; readonly exportName: string }
  | { readonly kind: "open"; readonly exportName: string }
  | {
      /** "select" opens the contexts that are meant, instead of those that were selected before. */
      readonly kind: "list-contexts" | "select-contexts";
      readonly exportName: string;
      readonly queries: readonly string[];
    };

export type Step =
  | { readonly kind: "read" }
  | { readonly kind: "ask"; readonly question: Question }
  | { readonly kind: "start-tls" }
  | { readonly kind: "transmit"; readonly agreement: Agreement }
  | { readonly kind: "end"; readonly reason: string; readonly isFault: boolean };

/** Why the catalog said no, as the client is told. */
export interface Refusal {
  readonly kind: "unknown" | "policy" | "tls" | "too-big" | "shutdown" | "failed";
  readonly message: string;
}

type Phase = "flags" | "options" | "skip" | "asked" | "tls" | "over";

const READ: Step = { kind: "read" };
const NO_BYTES = new Uint8Array(0);

export class Negotiation {
  readonly #settings: NegotiationSettings;
  readonly #output: Uint8Array[] = [];
  #phase: Phase = "flags";
  #input: Uint8Array = NO_BYTES;
  /** The unread part of #input is [start, end). */
  #start = 0;
  #end = 0;
  #optionCount = 0;
  /** Of an option that is too long: bytes still to come. */
  #skipBytes = 0;
  #isFixedNewstyle = false;
  #hasZeroes = true;
  #isTls = false;
  #headers: Headers = HEADERS.SIMPLE;
  #contexts: MetaContext[] = [];
  #contextsExport = "";
  /** Continues the option that asked; set exactly in phase "asked". */
  #continue: Continuation | undefined;
  #last: Step | undefined;

  constructor(settings: NegotiationSettings) {
    this.#settings = settings;
    const flags = HANDSHAKE_FLAG.FIXED_NEWSTYLE | HANDSHAKE_FLAG.NO_ZEROES;
    this.#output.push(encodeGreeting(flags));
  }

  get isTls(): boolean {
    return this.#isTls;
  }

  /** What has to be sent before the step that was just returned is done. */
  takeOutput(): Uint8Array[] {
    return this.#output.splice(0);
  }

  receive(bytes: Uint8Array): void {
    if (this.#last !== undefined || bytes.length === 0) return;
    if (this.#end - this.#start + bytes.length > INPUT_BYTES_MAX) {
      this.#stop(`sent more than ${INPUT_BYTES_MAX} bytes without waiting for a reply`);
      return;
    }
    this.#append(bytes);
  }

  step(): Step {
    for (;;) {
      if (this.#last !== undefined) return this.#last;
      const step = this.#advance();
      if (step !== undefined) return step;
    }
  }

  /** The answer to a "list" question. */
  listed(entries: readonly ExportEntry[]): void {
    this.#answered()?.listed?.(entries);
  }

  /** The answer to a "describe" or "open" question. */
  described(description: ExportDescription): void {
    this.#answered()?.described?.(description);
  }

  /** The answer to a question about contexts: at most CONTEXT_COUNT_MAX where they are selected. */
  contextsFound(names: readonly string[]): void {
    this.#answered()?.contextsFound?.(names);
  }

  /** The catalog said no. */
  refused(refusal: Refusal): void {
    this.#answered()?.refused(refusal);
  }

  /** The TLS handshake that was asked for is done. */
  tlsStarted(): void {
    assert(this.#phase === "tls", "TLS starts when the negotiation asked for it");
    this.#isTls = true;
    this.#phase = "options";
  }

  /** undefined: something was done, ask again. */
  #advance(): Step | undefined {
    switch (this.#phase) {
      case "flags":
        return this.#readFlags();
      case "options":
        return this.#readOption();
      case "skip":
        return this.#skip();
      case "asked":
      case "tls":
      case "over":
        return READ;
    }
  }

  #readFlags(): Step | undefined {
    if (this.#available < WIRE.CLIENT_FLAGS) return READ;
    const flags = this.#u32(0);
    this.#consume(WIRE.CLIENT_FLAGS);
    const known = HANDSHAKE_FLAG.FIXED_NEWSTYLE | HANDSHAKE_FLAG.NO_ZEROES;
    if ((flags & ~known) !== 0) return this.#stop(`unknown client flags 0x${flags.toString(16)}`);
    this.#isFixedNewstyle = (flags & HANDSHAKE_FLAG.FIXED_NEWSTYLE) !== 0;
    this.#hasZeroes = (flags & HANDSHAKE_FLAG.NO_ZEROES) === 0;
    if (!this.#isFixedNewstyle && this.#settings.tls === "required") {
      return this.#stop("a client without fixed newstyle can't start the TLS that is required");
    }
    this.#phase = "options";
    return undefined;
  }

  #readOption(): Step | undefined {
    if (this.#available < WIRE.OPTION_HEADER) {
      // A wrong magic is seen before the client waits for an answer that never comes.
      const isWrong = this.#available >= 4 && this.#u32(0) !== OPTION_MAGIC.high;
      return isWrong ? this.#stop("an option without its magic") : READ;
    }
    if (this.#u32(0) !== OPTION_MAGIC.high || this.#u32(4) !== OPTION_MAGIC.low) {
      return this.#stop("an option without its magic");
    }
    const option = this.#u32(8);
    const lengthBytes = this.#u32(12);
    if (lengthBytes > OPTION_SKIP_BYTES_MAX) {
      return this.#stop(`option ${option} of ${lengthBytes} bytes`);
    }
    if (lengthBytes > OPTION_BYTES_MAX) return this.#tooLong(option, lengthBytes);
    if (this.#available < WIRE.OPTION_HEADER + lengthBytes) return READ;
    if (!this.#countOption()) return this.#last;
    const from = this.#start + WIRE.OPTION_HEADER;
    const data = this.#input.slice(from, from + lengthBytes);
    this.#consume(WIRE.OPTION_HEADER + lengthBytes);
    return this.#option(option, data);
  }

  #tooLong(option: number, lengthBytes: number): Step | undefined {
    if (!this.#countOption()) return this.#last;
    if (option === OPTION.EXPORT_NAME) {
      return this.#stop(`an export name of ${lengthBytes} bytes`);
    }
    this.#consume(WIRE.OPTION_HEADER);
    this.#skipBytes = lengthBytes;
    this.#phase = "skip";
    this.#error(option, OPTION_REPLY.ERR_TOO_BIG, `an option of ${lengthBytes} bytes`);
    return undefined;
  }

  #skip(): Step | undefined {
    const count = Math.min(this.#skipBytes, this.#available);
    this.#consume(count);
    this.#skipBytes -= count;
    if (this.#skipBytes > 0) return READ;
    this.#phase = "options";
    return undefined;
  }

  #countOption(): boolean {
    this.#optionCount += 1;
    if (this.#optionCount <= OPTION_COUNT_MAX) return true;
    this.#stop(`more than ${OPTION_COUNT_MAX} options`);
    return false;
  }

  #option(option: number, data: Uint8Array): Step | undefined {
    if (this.#settings.tls === "required" && !this.#isTls && !isAllowedBeforeTls(option)) {
      if (option === OPTION.EXPORT_NAME) return this.#stop("EXPORT_NAME before the required TLS");
      return this.#error(option, OPTION_REPLY.ERR_TLS_REQD, "this server requires TLS");
    }
    switch (option) {
      case OPTION.EXPORT_NAME:
        return this.#exportName(data);
      case OPTION.ABORT:
        this.#ack(option);
        return this.#over({ kind: "end", reason: "the client aborted", isFault: false });
      case OPTION.LIST:
        return this.#list(option, data);
      case OPTION.STARTTLS:
        return this.#startTls(option, data);
      case OPTION.INFO:
      case OPTION.GO:
        return this.#infoOrGo(option, data);
      case OPTION.STRUCTURED_REPLY:
      case OPTION.EXTENDED_HEADERS:
        return this.#chooseHeaders(option, data);
      case OPTION.LIST_META_CONTEXT:
      case OPTION.SET_META_CONTEXT:
        return this.#metaContext(option, data);
      default:
        return this.#error(option, OPTION_REPLY.ERR_UNSUP, `option ${option} is unknown`);
    }
  }

  #exportName(data: Uint8Array): Step | undefined {
    const name = data.length > STRING_BYTES_MAX ? undefined : decodeText(data);
    if (name === undefined) return this.#stop("an export name that isn't a string");
    if (this.#headers === HEADERS.EXTENDED) return this.#stop("EXPORT_NAME with extended headers");
    if (this.#isHiddenWithoutTls(name)) return this.#stop(`export "${name}" requires TLS`);
    const described = (description: ExportDescription): void => {
      const flags = this.#transmissionFlags(description, name);
      this.#output.push(encodeExportReply(description, flags, this.#hasZeroes));
      this.#transmit(name);
    };
    // This option has no way to say no: the specification wants the connection ended.
    const refused = (refusal: Refusal): void => {
      this.#stop(`export "${name}" refused: ${refusal.message}`);
    };
    return this.#ask({ kind: "open", exportName: name }, { described, refused });
  }

  #list(option: number, data: Uint8Array): Step | undefined {
    if (data.length > 0) return this.#invalid(option, "LIST takes no data");
    const listed = (entries: readonly ExportEntry[]): void => {
      for (const entry of entries) {
        if (this.#isHiddenWithoutTls(entry.name)) continue;
        this.#output.push(encodeServerReply(option, entry.name, entry.description));
      }
      this.#ack(option);
    };
    return this.#ask({ kind: "list" }, { listed, refused: (no) => this.#refuse(option, no) });
  }

  #startTls(option: number, data: Uint8Array): Step | undefined {
    if (data.length > 0) return this.#invalid(option, "STARTTLS takes no data");
    if (this.#isTls) return this.#invalid(option, "TLS has been started already");
    if (this.#settings.tls === "off" || !this.#isFixedNewstyle) {
      return this.#error(option, OPTION_REPLY.ERR_POLICY, "this server doesn't offer TLS");
    }
    if (this.#available > 0) {
      return this.#stop(`${this.#available} bytes of plain text behind STARTTLS`);
    }
    this.#headers = HEADERS.SIMPLE;
    this.#contexts = [];
    this.#contextsExport = "";
    this.#ack(option);
    this.#phase = "tls";
    return { kind: "start-tls" };
  }

  #infoOrGo(option: number, data: Uint8Array): Step | undefined {
    const request = parseInfoRequest(data);
    if (request === undefined) return this.#invalid(option, "lengths that don't add up");
    const { exportName } = request;
    if (this.#isHiddenWithoutTls(exportName)) {
      return this.#error(option, OPTION_REPLY.ERR_TLS_REQD, `export "${exportName}" requires TLS`);
    }
    const described = (description: ExportDescription): void =>
      this.#inform(option, request, description);
    const kind = option === OPTION.GO ? "open" : "describe";
    return this.#ask(
      { kind, exportName },
      { described, refused: (no) => this.#refuse(option, no) },
    );
  }

  #inform(option: number, request: InfoRequest, description: ExportDescription): void {
    const flags = this.#transmissionFlags(description, request.exportName);
    this.#output.push(...encodeInfoReplies(option, request, { description, flags }));
    this.#ack(option);
    if (option === OPTION.GO) this.#transmit(request.exportName);
  }

  #chooseHeaders(option: number, data: Uint8Array): Step | undefined {
    if (data.length > 0) return this.#invalid(option, "this option takes no data");
    if (option === OPTION.EXTENDED_HEADERS) this.#headers = HEADERS.EXTENDED;
    else if (this.#headers === HEADERS.EXTENDED) {
      const message = "extended headers have been agreed on already";
      return this.#error(option, OPTION_REPLY.ERR_EXT_HEADER_REQD, message);
    } else this.#headers = HEADERS.STRUCTURED;
    this.#ack(option);
    return undefined;
  }

  #metaContext(option: number, data: Uint8Array): Step | undefined {
    const isSet = option === OPTION.SET_META_CONTEXT;
    if (isSet) this.#contexts = []; // also when the option fails
    if (this.#headers === HEADERS.SIMPLE) {
      return this.#invalid(option, "structured replies or extended headers come first");
    }
    const query = parseContextQuery(data);
    if (query === undefined) return this.#invalid(option, "lengths that don't add up");
    if (query.queries.length > CONTEXT_QUERIES_MAX) {
      const message = `more than ${CONTEXT_QUERIES_MAX} queries`;
      return this.#error(option, OPTION_REPLY.ERR_TOO_BIG, message);
    }
    if (query.queries.some((text) => !text.includes(":"))) {
      return this.#invalid(option, "a query is namespace:name");
    }
    if (this.#isHiddenWithoutTls(query.exportName)) {
      return this.#error(option, OPTION_REPLY.ERR_POLICY, "this export requires TLS");
    }
    const contextsFound = (names: readonly string[]): void =>
      this.#tellContexts(option, query.exportName, names);
    return this.#ask(
      { kind: isSet ? "select-contexts" : "list-contexts", ...query },
      { contextsFound, refused: (no) => this.#refuse(option, no) },
    );
  }

  #tellContexts(option: number, exportName: string, names: readonly string[]): void {
    const isSet = option === OPTION.SET_META_CONTEXT;
    assert(!isSet || names.length <= CONTEXT_COUNT_MAX, "selected contexts are bounded");
    for (const [index, name] of names.entries())
      this.#output.push(encodeContextReply(option, isSet ? index + 1 : 0, name));
    if (isSet) {
      this.#contextsExport = exportName;
      this.#contexts = names.map((name, index) => ({ id: index + 1, name }));
    }
    this.#ack(option);
  }

  #isHiddenWithoutTls(exportName: string): boolean {
    return this.#settings.tls !== "off" && !this.#isTls && this.#settings.needsTls(exportName);
  }

  #transmissionFlags(description: ExportDescription, exportName: string): number {
    let flags: number =
      TRANSMISSION_FLAG.HAS_FLAGS |
      TRANSMISSION_FLAG.SEND_FLUSH |
      TRANSMISSION_FLAG.SEND_FUA |
      TRANSMISSION_FLAG.SEND_CACHE;
    if (description.isReadOnly) flags |= TRANSMISSION_FLAG.READ_ONLY;
    else {
      flags |= TRANSMISSION_FLAG.SEND_TRIM;
      flags |= TRANSMISSION_FLAG.SEND_WRITE_ZEROES | TRANSMISSION_FLAG.SEND_FAST_ZERO;
    }
    if (description.canMultiConnect) flags |= TRANSMISSION_FLAG.CAN_MULTI_CONN;
    if (this.#headers !== HEADERS.SIMPLE) flags |= TRANSMISSION_FLAG.SEND_DF;
    if (this.#headers === HEADERS.EXTENDED && this.#contextsFor(exportName).length > 0) {
      flags |= TRANSMISSION_FLAG.BLOCK_STATUS_PAYLOAD;
    }
    return flags;
  }

  /** Contexts count only for the export they were selected on. */
  #contextsFor(exportName: string): readonly MetaContext[] {
    return this.#contextsExport === exportName ? this.#contexts : [];
  }

  #transmit(exportName: string): void {
    const rest = this.#input.slice(this.#start, this.#end);
    const contexts = this.#contextsFor(exportName);
    const agreement = { exportName, headers: this.#headers, contexts, rest };
    this.#over({ kind: "transmit", agreement });
  }

  #ask(question: Question, continuation: Continuation): Step {
    this.#continue = continuation;
    this.#phase = "asked";
    return { kind: "ask", question };
  }

  /** undefined: the handshake ended while the catalog was asked. */
  #answered(): Continuation | undefined {
    if (this.#last !== undefined) return undefined;
    const continuation = this.#continue;
    assert(continuation !== undefined && this.#phase === "asked", "an answer follows a question");
    this.#continue = undefined;
    this.#phase = "options";
    return continuation;
  }

  #refuse(option: number, refusal: Refusal): void {
    // The specification has TLS_REQD for INFO and GO alone.
    const isTlsTold = option === OPTION.INFO || option === OPTION.GO;
    const kind = refusal.kind === "tls" && !isTlsTold ? "policy" : refusal.kind;
    this.#error(option, REFUSAL_REPLY[kind], refusal.message);
  }

  #invalid(option: number, message: string): undefined {
    return this.#error(option, OPTION_REPLY.ERR_INVALID, message);
  }

  #error(option: number, type: number, message: string): undefined {
    this.#output.push(encodeOptionError(option, type, message));
  }

  #ack(option: number): void {
    this.#output.push(encodeOptionReply(option, OPTION_REPLY.ACK));
  }

  #stop(reason: string): Step {
    return this.#over({ kind: "end", reason: `handshake: ${reason}`, isFault: true });
  }

  #over(step: Step): Step {
    this.#phase = "over";
    this.#last = step;
    this.#input = NO_BYTES;
    this.#start = 0;
    this.#end = 0;
    return step;
  }

  get #available(): number {
    return this.#end - this.#start;
  }

  #u32(offset: number): number {
    const at = this.#start + offset;
    const [a, b, c, d] = [0, 1, 2, 3].map((index) => this.#input[at + index] as number);
    return a! * 0x1000000 + ((b! << 16) | (c! << 8) | d!);
  }

  #append(bytes: Uint8Array): void {
    const needed = this.#available + bytes.length;
    if (this.#end + bytes.length > this.#input.length) {
      // Doubling: a client that sends byte by byte costs linear time.
      const grown = new Uint8Array(Math.max(64, needed * 2));
      grown.set(this.#input.subarray(this.#start, this.#end));
      this.#end = this.#available;
      this.#start = 0;
      this.#input = grown;
    }
    this.#input.set(bytes, this.#end);
    this.#end += bytes.length;
  }

  #consume(count: number): void {
    this.#start += count;
    if (this.#start === this.#end) {
      this.#input = NO_BYTES; // an idle handshake holds nothing
      this.#start = 0;
      this.#end = 0;
    }
  }
}

interface Continuation {
  readonly listed?: (entries: readonly ExportEntry[]) => void;
  readonly described?: (description: ExportDescription) => void;
  readonly contextsFound?: (names: readonly string[]) => void;
  readonly refused: (refusal: Refusal) => void;
}

const REFUSAL_REPLY: Readonly<Record<Refusal["kind"], number>> = {
  unknown: OPTION_REPLY.ERR_UNKNOWN,
  policy: OPTION_REPLY.ERR_POLICY,
  tls: OPTION_REPLY.ERR_TLS_REQD,
  "too-big": OPTION_REPLY.ERR_TOO_BIG,
  shutdown: OPTION_REPLY.ERR_SHUTDOWN,
  // The protocol has no "failed": the reply that makes a client give up and show the message.
  failed: OPTION_REPLY.ERR_PLATFORM,
};

function isAllowedBeforeTls(option: number): boolean {
  return option === OPTION.STARTTLS || option === OPTION.ABORT;
}
