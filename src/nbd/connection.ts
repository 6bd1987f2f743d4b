// SPDX-License-Identifier: Apache-2.0
//
// One client from accept to goodbye: hands the socket's bytes to the handshake, then to the session, and
// does what these ask for: send, ask the catalog, start TLS, open the export, hang up. A connection that
// ends badly leaves one line in the log.
//
//   handshake ─ (TLS) ─ opening: access list, hook, catalog ─ session ─ closing ─ gone
//
// The socket may be gone while the device still works on requests: the export is closed when the last of
// them is done.

import { StorageError } from "../base/errors.ts";
import type { Clock, Logger } from "../host/ports.ts";
import type { Socket, SocketHandler, TlsServerSettings, TlsSocket } from "../host/sockets.ts";
import type { AccessPolicy } from "./access.ts";
import type {
  ClientIdentity,
  ExportCatalog,
  ExportDescription,
  FoundExport,
  OpenExport,
} from "./block-device.ts";
import { ExportContexts } from "./export-contexts.ts";
import { FoundExports } from "./found-exports.ts";
import type { HookEvent } from "./hooks.ts";
import {
  CONTEXT_COUNT_MAX,
  Negotiation,
  type Question,
  type Refusal,
  type Step,
  type TlsMode,
} from "./negotiation.ts";
import { Session, type SessionShare } from "./session.ts";

/** How long a client may take from connecting to its first request. */
export const HANDSHAKE_MS_MAX = 10_000;
/** How long we wait for a client to hang up after us, so that it can read our last replies. */
const GOODBYE_MS_MAX = 1_000;

/** What the connections of a server have in common. */
export interface ConnectionContext {
  readonly catalog: ExportCatalog;
  readonly access: AccessPolicy;
  readonly share: SessionShare;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly tlsMode: TlsMode;
  readonly tls: TlsServerSettings | undefined;
  readonly handshakeMs: number;
  /** Runs a hook; throws ACCESS_DENIED when it refuses. */
  readonly runHook: (event: HookEvent, exportName: string, client: ClientIdentity) => Promise<void>;
  /** A hook or a rule wants to know the Unix uid. */
  readonly isUidWanted: boolean;
  /** The connection is gone, with everything it held. */
  readonly gone: (connection: Connection) => void;
}

type Phase = "handshake" | "session" | "closing" | "closed";

export class Connection implements SocketHandler {
  readonly #context: ConnectionContext;
  readonly #negotiation: Negotiation;
  readonly #found: FoundExports;
  readonly #contexts: ExportContexts;
  #socket: Socket;
  #phase: Phase = "handshake";
  #client: ClientIdentity & { ip?: string };
  #isUidKnown: boolean;
  #session: Session | undefined;
  #export: OpenExport | undefined;
  /** Taken from the catalog, not yet the session's. */
  #exportName = "";
  #cancelTimer: (() => void) | undefined;
  /** A send of the handshake's is under way. */
  #isSending = false;
  /** The session's first send, which waits for it. */
  #heldParts: readonly Uint8Array[] | undefined;
  /** Handshake replies that wait for the send before them. */
  readonly #replies: Uint8Array[] = [];
  #isGone = false;
  /** A catalog or hook is being asked. */
  #isAsking = false;
  #isSocketClosed = false;

  constructor(socket: Socket, context: ConnectionContext) {
    this.#context = context;
    this.#found = new FoundExports(context.catalog);
    this.#contexts = new ExportContexts({
      isAllowed: (name) => context.access.isAllowed(name, this.#client) && !this.#needsTls(name),
      refused: (name, reason) =>
        this.#log("warn", "nbd.context-refused", { context: name, reason }),
    });
    this.#socket = socket;
    const { peer, peerAddress } = socket;
    this.#client = { address: peer, ...(peerAddress === undefined ? {} : { ip: peerAddress }) };
    this.#isUidKnown = peerAddress !== undefined || !context.isUidWanted;
    // A Unix socket never leaves the machine and has permissions of its own: TLS is possible there, but
    // not asked for, or the commands on this machine would need certificates too.
    const isLocal = peerAddress === undefined;
    this.#negotiation = new Negotiation({
      tls: isLocal && context.tlsMode === "required" ? "optional" : context.tlsMode,
      needsTls: (name) => context.access.needsTls(name),
    });
  }

  get client(): ClientIdentity {
    return this.#client;
  }

  get exportName(): string | undefined {
    return this.#export === undefined ? undefined : this.#exportName;
  }

  get session(): Session | undefined {
    return this.#session;
  }

  start(): void {
    const { clock, handshakeMs } = this.#context;
    this.#cancelTimer = clock.after(handshakeMs, () => {
      this.#end("the handshake took too long", { seconds: handshakeMs / 1000 });
    });
    this.#socket.start(this);
    this.#drive();
  }

  /** No more requests; goodbye when all is answered. */
  leave(options: { isRefusing: boolean }): void {
    if (this.#session !== undefined && this.#phase === "session") this.#session.leave(options);
    else if (this.#phase === "handshake") this.#close();
  }

  /** Ends it at once, with a line in the log. */
  abort(reason: string): void {
    this.#end(reason, {});
  }

  // SocketHandler

  target(): Uint8Array {
    return this.#session?.target() ?? this.#context.share.memory.window;
  }

  received(countBytes: number): void {
    if (this.#phase === "session") this.#session?.received(countBytes);
    else if (this.#phase === "handshake") {
      this.#negotiation.receive(this.#context.share.memory.window.slice(0, countBytes));
      this.#drive();
    }
  }

  sent(): void {
    if (!this.#isSending) {
      this.#session?.sent();
      return;
    }
    this.#isSending = false;
    this.#sendReplies();
    const held = this.#heldParts;
    if (this.#isSending || held === undefined) return;
    this.#heldParts = undefined;
    if (this.#socket.send(held)) this.#session?.sent();
  }

  ended(): void {
    if (this.#phase === "handshake") this.#close();
    else if (this.#phase === "session") this.#session?.leave({ isRefusing: false });
    else this.#socket.destroy();
  }

  closed(error?: Error): void {
    if (this.#isSocketClosed) return;
    this.#isSocketClosed = true;
    if (error !== undefined && this.#phase === "session") {
      this.#log("warn", "nbd.client-lost", { reason: error.message });
    }
    this.#phase = "closed";
    this.#cancelTimer?.();
    this.#contexts.cancel();
    if (this.#session !== undefined) this.#session.closed();
    else if (!this.#isAsking) this.#goneNow();
  }

  // Handshake

  #drive(): void {
    while (this.#phase === "handshake" && !this.#isAsking) {
      const step = this.#negotiation.step();
      this.#replies.push(...this.#negotiation.takeOutput());
      this.#sendReplies();
      if (!this.#follow(step)) return;
    }
  }

  /** False: wait for something. */
  #follow(step: Step): boolean {
    switch (step.kind) {
      case "read":
        return false;
      case "ask":
        this.#ask(step.question);
        return true;
      case "start-tls":
        this.#startTls();
        return false;
      case "transmit":
        this.#transmit(step);
        return false;
      case "end":
        if (step.isFault) this.#end(step.reason, {});
        else this.#close();
        return false;
    }
  }

  #sendReplies(): void {
    if (this.#isSending || this.#replies.length === 0 || this.#isSocketClosed) return;
    this.#isSending = !this.#socket.send(this.#replies.splice(0));
  }

  #ask(question: Question): void {
    this.#isAsking = true;
    this.#answer(question).then(
      (answer) => this.#answered(answer),
      (error: unknown) => this.#answered(() => this.#negotiation.refused(this.#refusalOf(error))),
    );
  }

  #answered(answer: () => void): void {
    this.#isAsking = false;
    if (this.#isSocketClosed) {
      this.#goneNow();
      return;
    }
    answer();
    this.#drive();
  }

  async #answer(question: Question): Promise<() => void> {
    const { catalog, access } = this.#context;
    if (!this.#isUidKnown) await this.#findUid();
    if (question.kind === "list") {
      const entries = await catalog.list(this.#client);
      const visible = entries.filter((entry) => access.isAllowed(entry.name, this.#client));
      return () => this.#negotiation.listed(visible);
    }
    const { exportName } = question;
    const found = await this.#find(exportName);
    if (this.#lacksTls(found)) {
      const message = `export "${exportName}" requires TLS`;
      return () => this.#negotiation.refused({ kind: "tls", message });
    }
    if (question.kind === "describe") {
      const description = found.describe();
      return () => this.#negotiation.described(description);
    }
    if (question.kind !== "open") {
      return await this.#askContexts(question, found);
    }
    if (this.#contexts.isOfAnother(exportName, found)) {
      const message = `export "${exportName}": not opened: it is another disk than when its metadata contexts were selected`;
      throw new StorageError("BUSY", message, { hint: "connect again" });
    }
    await this.#context.runHook("before-attach", found.stableName, this.#client);
    const hangUp = (reason: string): void => this.abort(reason);
    this.#export = await found.open({ identity: this.#client, hangUp });
    this.#exportName = exportName;
    const description = describe(this.#export);
    return () => this.#negotiation.described(description);
  }

  async #askContexts(
    { kind, exportName, queries }: Extract<Question, { readonly queries: unknown }>,
    found: FoundExport,
  ): Promise<() => void> {
    const names =
      kind === "list-contexts"
        ? await this.#contexts.list(found, queries)
        : await this.#contexts.select(exportName, found, queries);
    const message = `more than ${CONTEXT_COUNT_MAX} metadata contexts`;
    if (names === undefined) return () => this.#negotiation.refused({ kind: "too-big", message });
    return () => this.#negotiation.contextsFound(names);
  }

  /** What the client is told. A guess at the name it meant may be one that an access list hides from it. */
  #refusalOf(error: unknown): Refusal {
    if (!(error instanceof StorageError)) throw error;
    const isGuess = error.code === "EXPORT_NOT_FOUND" || error.code === "VOLUME_NOT_FOUND";
    const isHinted = !(isGuess && this.#context.access.hasRules);
    const message = isHinted ? `${error.message}; hint: ${error.hint}` : error.message;
    return { kind: refusalKind(error), message };
  }

  async #find(exportName: string): Promise<FoundExport> {
    // The empty name is judged by the name of what is found.
    if (exportName !== "") this.#checkAccess(exportName, exportName);
    const found = await this.#found.find(exportName);
    for (const name of found.otherNames) this.#checkAccess(exportName, name);
    return found;
  }

  /** By the rules of one of the names that the export is known by. */
  #checkAccess(exportName: string, name: string): void {
    if (this.#context.access.isAllowed(name, this.#client)) return;
    const list = name === exportName ? "access list" : "access list of another name of this disk";
    const message = `export "${exportName}": client refused: the ${list} doesn't name it`;
    this.#log("warn", "nbd.client-refused", { export: exportName, rule: name, reason: message });
    throw new StorageError("ACCESS_DENIED", message);
  }

  /** The negotiation has looked at the name that was asked for; these are the others. */
  #lacksTls({ otherNames }: FoundExport): boolean {
    return otherNames.some((name) => this.#needsTls(name));
  }

  #needsTls(name: string): boolean {
    const { access, tlsMode } = this.#context;
    return tlsMode !== "off" && !this.#negotiation.isTls && access.needsTls(name);
  }

  async #findUid(): Promise<void> {
    this.#isUidKnown = true;
    const unixUid = await this.#socket.peerUid();
    if (unixUid === undefined) return;
    this.#client = { ...this.#client, address: `unix:${unixUid}`, unixUid };
  }

  #startTls(): void {
    const { tls } = this.#context;
    if (tls === undefined || this.#isSending) {
      // Not sent in one go: the client doesn't read even the answer to its own question.
      this.#end("TLS could not be started", {});
      return;
    }
    this.#socket.startTls(tls).then(
      (secure) => this.#tlsStarted(secure),
      (error: unknown) => {
        this.#log("warn", "nbd.client-refused", { reason: `TLS: ${textOf(error)}` });
        this.#socket.destroy();
        this.closed();
      },
    );
  }

  #tlsStarted(secure: TlsSocket): void {
    this.#socket = secure;
    if (this.#phase !== "handshake") {
      secure.destroy();
      this.closed();
      return;
    }
    const { certificateName, pskIdentity } = secure;
    this.#client = {
      ...this.#client,
      ...(certificateName === undefined ? {} : { certificateName }),
      ...(pskIdentity === undefined ? {} : { pskIdentity }),
    };
    this.#found.forget();
    this.#contexts.close();
    this.#negotiation.tlsStarted();
    secure.start(this);
    this.#drive();
  }

  // Session

  #transmit(step: Step & { kind: "transmit" }): void {
    const opened = this.#export as OpenExport;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    this.#phase = "session";
    const { agreement } = step;
    const names = agreement.contexts.map(({ name }) => name);
    this.#contexts.keep(names);
    const contexts = agreement.contexts.map(({ id, name }) => ({
      id,
      source: this.#contexts.get(name) ?? opened.device,
    }));
    const session = new Session(
      { send: (parts) => this.#sendForSession(parts) },
      {
        device: opened.device,
        agreement,
        contexts,
        share: this.#context.share,
        shell: {
          pause: () => this.#socket.pause(),
          resume: () => this.#socket.resume(),
          finished: () => this.#close(),
          violated: (reason) => this.#end(reason, { export: agreement.exportName }),
          idle: () => this.#goneNow(),
        },
      },
    );
    this.#log("info", "nbd.client-attached", {
      export: agreement.exportName,
      stableName: opened.stableName,
      tls: this.#negotiation.isTls,
      ...(names.length === 0 ? {} : { contexts: names }),
    });
    this.#hookAfter("after-attach");
    this.#session = session;
    session.begin(agreement.rest);
  }

  /** The last replies of the handshake may still be on their way, behind TLS for instance. */
  #sendForSession(parts: readonly Uint8Array[]): boolean {
    if (!this.#isSending) return this.#socket.send(parts);
    this.#heldParts = parts;
    return false;
  }

  // The end

  #end(reason: string, fields: Readonly<Record<string, unknown>>): void {
    if (this.#phase === "closing" || this.#phase === "closed") return;
    this.#log("warn", "nbd.client-ended", { reason, ...fields });
    this.#phase = "closing";
    this.#cancelTimer?.();
    this.#socket.destroy();
  }

  /** Sends an end of file, gives the client a moment to read it, and drops the connection. */
  #close(): void {
    if (this.#phase === "closing" || this.#phase === "closed") return;
    this.#phase = "closing";
    this.#cancelTimer?.();
    this.#socket.end();
    this.#socket.resume();
    this.#cancelTimer = this.#context.clock.after(GOODBYE_MS_MAX, () => this.#socket.destroy());
  }

  #goneNow(): void {
    if (this.#isGone) return;
    this.#isGone = true;
    this.#contexts.close();
    const opened = this.#export;
    if (opened !== undefined) {
      opened.close();
      this.#log("info", "nbd.client-detached", { export: this.#exportName });
      this.#hookAfter("after-detach");
    }
    this.#context.gone(this);
  }

  /** A hook that can't refuse any more: what goes wrong is logged by the runner. */
  #hookAfter(event: HookEvent): void {
    const { stableName } = this.#export as OpenExport;
    this.#context.runHook(event, stableName, this.#client).catch((error: unknown) => {
      this.#log("warn", "nbd.hook-failed", { hook: event, reason: textOf(error) });
    });
  }

  #log(level: "info" | "warn", event: string, fields: Readonly<Record<string, unknown>>): void {
    const { address, certificateName, pskIdentity } = this.#client;
    this.#context.logger.log(level, event, {
      client: address,
      ...(certificateName === undefined ? {} : { certificateName }),
      ...(pskIdentity === undefined ? {} : { pskIdentity }),
      ...fields,
    });
  }
}

function describe(opened: OpenExport): ExportDescription {
  const { device, canonicalName, description } = opened;
  return {
    sizeBytes: device.sizeBytes,
    isReadOnly: device.isReadOnly,
    canMultiConnect: device.canMultiConnect,
    canonicalName,
    description,
  };
}

function refusalKind({ code, kind }: StorageError): Refusal["kind"] {
  // BUSY is a limit of ours; the specification's SHUTDOWN would tell the client that the server goes away.
  if (code === "ACCESS_DENIED" || code === "BUSY") return "policy";
  if (kind === "not_found" || kind === "invalid") return "unknown";
  return kind === "unavailable" ? "shutdown" : "failed";
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
