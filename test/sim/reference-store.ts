// SPDX-License-Identifier: Apache-2.0
//
// The simplest store that keeps the promises: all content in memory, every change a record in a log of
// segment files, batches with a checksum and a chain, a full copy as the checkpoint. It exists to test the
// simulator: it must pass every check, and each of its faults (`Fault`) must be caught by one.

import { crc32 } from "node:zlib";
import type { DiskFile } from "../../src/host/ports.ts";
import type { StoreHost } from "../../src/sim/machine.ts";
import type {
  PoolDriver,
  PoolUnderTest,
  StoreRequest,
  VolumeShape,
} from "../../src/sim/pool-under-test.ts";
import { CHUNK_BYTES, SparseBytes } from "../../src/sim/sparse-bytes.ts";

/** One way each to lose data. */
export const FAULTS = [
  "acknowledges a flush without datasync",
  "never syncs the directory",
  "accepts torn batches",
  "accepts a whole batch behind a torn one",
  "applies requests in the wrong order",
  "acknowledges a forced write like any other",
  "trusts what a dead process wrote to be durable",
  "removes segments before the checkpoint is durable",
  "syncs only the newest segment",
  "reads a buffer that is the client's again",
  "returns stale content for a while",
  "forgets part of a trim",
  "loses the volumes made last",
  "trusts a datasync after one that failed",
  "shows only what was durable once a datasync has failed",
] as const;
export type Fault = (typeof FAULTS)[number];

const HEADER_BYTES = 24;
const MAGIC = 0x52454631;
const SEGMENT_BYTES = 16384;

interface Volume {
  name: string;
  sizeBytes: number;
  content: SparseBytes;
}

interface LogRecord {
  readonly kind: "create" | "resize" | "remove" | "rename" | "write" | "clear";
  readonly name: string;
  readonly newName?: string;
  readonly offsetBytes?: number;
  readonly sizeBytes?: number;
}

interface Entry {
  readonly record: LogRecord;
  readonly bytes: Uint8Array;
  readonly done: (error: unknown) => void;
  readonly isForced: boolean;
}

interface Segment {
  readonly number: number;
  readonly file: DiskFile;
  end: number;
  isDirty: boolean;
}

export function referenceDriver(fault?: Fault, ack: PoolDriver["ack"] = "written"): PoolDriver {
  return {
    name: `reference store${fault === undefined ? "" : ` that ${fault}`}`,
    volumeBytesMin: 512,
    ack,
    start: (host) => ReferenceStore.open(host, fault, ack),
  };
}

class ReferenceStore implements PoolUnderTest {
  readonly #host: StoreHost;
  readonly #fault: Fault | undefined;
  readonly #ack: PoolDriver["ack"];
  #volumes = new Map<string, Volume>();
  #chain = 0;
  #segments: Segment[] = [];
  #nextNumber = 1;
  #queue: Entry[] = [];
  #isDirectoryDirty = false;
  /** As the last datasync found it: kept for a fault only. */
  #durableContents: ReadonlyMap<string, SparseBytes> = new Map();
  /** Ends when everything that was asked of the disk so far has been done. */
  #last: Promise<void> = Promise.resolve();
  #isBatchScheduled = false;

  constructor(host: StoreHost, fault: Fault | undefined, ack: PoolDriver["ack"]) {
    this.#host = host;
    this.#fault = fault;
    this.#ack = ack;
  }

  static async open(
    host: StoreHost,
    fault: Fault | undefined,
    ack: PoolDriver["ack"],
  ): Promise<ReferenceStore> {
    const store = new ReferenceStore(host, fault, ack);
    await store.#recover();
    return store;
  }

  volumes(): VolumeShape[] {
    return [...this.#volumes.values()].map(({ name, sizeBytes }) => ({ name, sizeBytes }));
  }

  createVolume(name: string, sizeBytes: number): Promise<void> {
    return this.#change({ kind: "create", name, sizeBytes });
  }

  resizeVolume(name: string, sizeBytes: number): Promise<void> {
    return this.#change({ kind: "resize", name, sizeBytes });
  }

  removeVolume(name: string): Promise<void> {
    return this.#change({ kind: "remove", name });
  }

  renameVolume(name: string, newName: string): Promise<void> {
    return this.#change({ kind: "rename", name, newName });
  }

  submit(name: string, request: StoreRequest, done: (errno: number) => void): void {
    const end = (error: unknown): void => done(error === undefined ? 0 : 5);
    switch (request.kind) {
      case "flush":
        this.flush().then(() => end(undefined), end);
        return;
      case "read": {
        this.#volume(name).content.read(request.target, request.offsetBytes);
        this.#host.clock.afterInput(() => done(0));
        return;
      }
      case "write": {
        const { offsetBytes, source, isForceUnitAccess } = request;
        const isLate = this.#is("reads a buffer that is the client's again");
        const bytes = isLate ? source : source.slice();
        if (isLate) this.#host.clock.afterInput(() => done(0));
        const entryDone = isLate ? (): void => undefined : end;
        this.#append(
          { kind: "write", name, offsetBytes },
          { bytes, done: entryDone, isForced: isForceUnitAccess },
        );
        return;
      }
      case "trim":
      case "zero": {
        const { offsetBytes, lengthBytes, isForceUnitAccess } = request;
        const record = { kind: "clear", name, offsetBytes, sizeBytes: lengthBytes } as const;
        this.#append(record, { bytes: new Uint8Array(0), done: end, isForced: isForceUnitAccess });
        return;
      }
      default:
        request satisfies never;
    }
  }

  flush(): Promise<void> {
    this.#closeBatch();
    return this.#then(() => this.#sync());
  }

  async checkpoint(): Promise<void> {
    this.#closeBatch();
    const image = encodeImage(this.#volumes);
    await this.#then(async () => {
      if (!this.#is("removes segments before the checkpoint is durable")) await this.#sync();
      const { log } = this.#host;
      const old = this.#segments;
      const name = `checkpoint-${this.#nextNumber}`;
      await this.#roll();
      const file = await log.open("temporary", "create").catch(async () => {
        await log.remove("temporary");
        return log.open("temporary", "create");
      });
      await file.write(seal(image, { chain: 0, extra: this.#chain }).bytes, 0);
      if (!this.#is("removes segments before the checkpoint is durable")) await file.datasync();
      await file.close();
      await log.rename("temporary", name);
      if (!this.#is("removes segments before the checkpoint is durable")) await log.sync();
      for (const { number, file: segment } of old) {
        await segment.close();
        await log.remove(segmentName(number));
      }
      this.#segments = this.#segments.filter((segment) => !old.includes(segment));
      const names = await log.list();
      for (const other of names) {
        if (other.startsWith("checkpoint-") && other !== name) await log.remove(other);
      }
      await log.sync();
    });
  }

  async close(): Promise<void> {
    await this.flush();
    for (const { file } of this.#segments) await file.close();
  }

  // --- changes

  #change(record: LogRecord): Promise<void> {
    return new Promise((resolve, reject) => {
      const done = (error: unknown): void => (error === undefined ? resolve() : reject(error));
      this.#append(record, { bytes: new Uint8Array(0), done, isForced: false });
    });
  }

  #append(record: LogRecord, rest: Omit<Entry, "record">): void {
    const isStale = this.#is("returns stale content for a while") && record.kind === "write";
    if (isStale) this.#host.clock.after(1, () => this.#apply(record, rest.bytes));
    else this.#apply(record, rest.bytes);
    this.#queue.push({ record, ...rest });
    if (this.#is("applies requests in the wrong order") && this.#queue.length > 2) {
      this.#queue.unshift(this.#queue.pop() as Entry);
    }
    if (this.#isBatchScheduled) return;
    this.#isBatchScheduled = true;
    this.#host.clock.afterInput(() => this.#closeBatch());
  }

  #apply(
    { kind, name, newName, offsetBytes = 0, sizeBytes = 0 }: LogRecord,
    bytes: Uint8Array,
  ): void {
    const volume = this.#volumes.get(name);
    if (kind === "create") {
      this.#volumes.set(name, { name, sizeBytes, content: new SparseBytes() });
      return;
    }
    if (volume === undefined) return;
    if (kind === "write") volume.content.write(bytes, offsetBytes);
    const isPart = this.#is("forgets part of a trim") && sizeBytes > 4096;
    if (kind === "clear") volume.content.zero(offsetBytes, isPart ? sizeBytes - 1 : sizeBytes);
    if (kind === "remove") this.#volumes.delete(name);
    if (kind === "resize") {
      volume.sizeBytes = sizeBytes;
      volume.content.cut(sizeBytes);
    }
    if (kind === "rename" && newName !== undefined) {
      this.#volumes.delete(name);
      volume.name = newName;
      this.#volumes.set(newName, volume);
    }
  }

  #volume(name: string): Volume {
    const volume = this.#volumes.get(name);
    if (volume === undefined) throw new Error(`volume "${name}" is missing`);
    return volume;
  }

  // --- the log

  #closeBatch(): void {
    this.#isBatchScheduled = false;
    const entries = this.#queue;
    if (entries.length === 0) return;
    this.#queue = [];
    this.#then(() => this.#writeBatch(entries)).then(
      () => {
        for (const { done } of entries) done(undefined);
      },
      (error: unknown) => {
        for (const { done } of entries) done(error);
      },
    );
  }

  async #writeBatch(entries: readonly Entry[]): Promise<void> {
    const payload = encodeRecords(entries);
    const { bytes, checksum } = seal(payload, { chain: this.#chain, extra: 0 });
    let segment = this.#segments.at(-1);
    if (segment === undefined || segment.end + bytes.length > SEGMENT_BYTES)
      segment = await this.#roll();
    if (bytes.length < 2048) segment.file.writeSync(bytes, segment.end);
    else await segment.file.write(bytes, segment.end);
    segment.end += bytes.length;
    segment.isDirty = true;
    this.#chain = checksum;
    const isForced = entries.some((entry) => entry.isForced) || this.#ack === "durable";
    if (isForced && !this.#is("acknowledges a forced write like any other")) await this.#sync();
  }

  async #roll(): Promise<Segment> {
    const number = this.#nextNumber++;
    const file = await this.#host.log.open(segmentName(number), "create");
    const segment = { number, file, end: 0, isDirty: false };
    this.#segments.push(segment);
    this.#isDirectoryDirty = true;
    return segment;
  }

  async #sync(): Promise<void> {
    if (this.#is("acknowledges a flush without datasync")) return;
    if (this.#is("shows only what was durable once a datasync has failed")) {
      const contents = contentsOf(this.#volumes);
      try {
        await this.#syncFiles();
      } catch (error) {
        for (const [name, content] of this.#durableContents) {
          const volume = this.#volumes.get(name);
          if (volume !== undefined) volume.content = content.clone();
        }
        throw error;
      }
      this.#durableContents = contents;
    } else await this.#syncFiles();
  }

  async #syncFiles(): Promise<void> {
    const isNewestOnly = this.#is("syncs only the newest segment");
    for (const segment of isNewestOnly ? this.#segments.slice(-1) : this.#segments) {
      if (!segment.isDirty) continue;
      segment.isDirty = false;
      await segment.file.datasync();
    }
    if (!this.#isDirectoryDirty || this.#is("never syncs the directory")) return;
    this.#isDirectoryDirty = false;
    await this.#host.log.sync();
  }

  /** Disk work, one piece after the other. The first failure is final. */
  #then(work: () => Promise<void>): Promise<void> {
    const next = this.#last.then(work);
    this.#last = next;
    next.catch(() => undefined);
    return next;
  }

  // --- recovery

  async #recover(): Promise<void> {
    const { log } = this.#host;
    const names = await log.list();
    const numbers = names
      .filter((name) => name.startsWith("segment-"))
      .map((name) => Number(name.slice(8)));
    const checkpoints = names
      .filter((name) => name.startsWith("checkpoint-"))
      .map((name) => Number(name.slice(11)));
    let first = 0;
    for (const number of checkpoints.sort((a, b) => b - a)) {
      const bytes = await readAll(await log.open(`checkpoint-${number}`, "read"));
      const batch = unseal(bytes, 0, { chain: 0, isChecked: true });
      if (batch === undefined) continue;
      this.#volumes = decodeImage(batch.payload);
      this.#chain = batch.extra;
      first = number;
      break;
    }
    this.#nextNumber = first;
    let isWhole = true;
    for (const number of numbers.sort((a, b) => a - b)) {
      if (number < first) continue;
      this.#nextNumber = Math.max(this.#nextNumber, number);
      const file = await log.open(segmentName(number), "write");
      const end = isWhole ? await this.#replay(file) : 0;
      if (end === 0) {
        isWhole = false;
        await file.close();
        await log.remove(segmentName(number));
        continue;
      }
      await file.truncate(end);
      // A datasync may have failed in an earlier life. The system then takes what was lost for clean, and
      // shows it still: only what is written again is sure to be synced.
      if (!this.#is("trusts a datasync after one that failed")) await rewrite(file, end);
      if (!this.#is("trusts what a dead process wrote to be durable")) await file.datasync();
      this.#segments.push({ number, file, end, isDirty: false });
    }
    this.#nextNumber += 1;
    if (!this.#is("never syncs the directory")) await log.sync();
    this.#durableContents = contentsOf(this.#volumes);
    if (this.#is("loses the volumes made last"))
      this.#volumes.delete([...this.#volumes.keys()][1] ?? "");
  }

  /** Applies a segment's batches; returns where the last good one ends. */
  async #replay(file: DiskFile): Promise<number> {
    const bytes = await readAll(file, false);
    let end = 0;
    const isChecked = !this.#is("accepts torn batches");
    for (;;) {
      const chain = this.#is("accepts a whole batch behind a torn one") ? undefined : this.#chain;
      const batch = unseal(bytes, end, { chain, isChecked });
      if (batch === undefined) {
        if (chain !== undefined) return end;
        // The fault: looks for the next batch that is whole.
        const next = bytes.findIndex(
          (_, at) => at > end && unseal(bytes, at, { chain, isChecked }) !== undefined,
        );
        if (next < 0) return end;
        end = next;
        continue;
      }
      for (const { record, bytes: data } of decodeRecords(batch.payload)) this.#apply(record, data);
      this.#chain = batch.checksum;
      end += batch.totalBytes;
    }
  }

  #is(fault: Fault): boolean {
    return this.#fault === fault;
  }
}

function contentsOf(volumes: ReadonlyMap<string, Volume>): Map<string, SparseBytes> {
  return new Map([...volumes.values()].map(({ name, content }) => [name, content.clone()]));
}

function segmentName(number: number): string {
  return `segment-${String(number).padStart(8, "0")}`;
}

async function rewrite(file: DiskFile, end: number): Promise<void> {
  const bytes = new Uint8Array(end);
  await file.read(bytes, 0);
  await file.write(bytes, 0);
}

async function readAll(file: DiskFile, isClosed = true): Promise<Uint8Array> {
  const bytes = new Uint8Array(await file.sizeBytes());
  await file.read(bytes, 0);
  if (isClosed) await file.close();
  return bytes;
}

// --- batches: magic, payload length, chain, extra, checksum over all of it; then the payload

function seal(
  payload: Uint8Array,
  { chain, extra }: { readonly chain: number; readonly extra: number },
): { bytes: Uint8Array; checksum: number } {
  const bytes = new Uint8Array(HEADER_BYTES + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC);
  view.setUint32(4, payload.length);
  view.setUint32(8, chain);
  view.setUint32(12, extra);
  bytes.set(payload, HEADER_BYTES);
  const checksum = crc32(payload, crc32(bytes.subarray(0, 16)));
  view.setUint32(16, checksum);
  return { bytes, checksum };
}

function unseal(
  bytes: Uint8Array,
  start: number,
  { chain, isChecked }: { readonly chain: number | undefined; readonly isChecked: boolean },
): { payload: Uint8Array; checksum: number; extra: number; totalBytes: number } | undefined {
  if (start + HEADER_BYTES > bytes.length) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset + start, bytes.length - start);
  const totalBytes = HEADER_BYTES + view.getUint32(4);
  if (view.getUint32(0) !== MAGIC || start + totalBytes > bytes.length) return undefined;
  if (chain !== undefined && view.getUint32(8) !== chain) return undefined;
  const payload = bytes.subarray(start + HEADER_BYTES, start + totalBytes);
  const checksum = view.getUint32(16);
  const isRight = crc32(payload, crc32(bytes.subarray(start, start + 16))) === checksum;
  return isChecked && !isRight
    ? undefined
    : { payload, checksum, extra: view.getUint32(12), totalBytes };
}

// --- payloads: a JSON text with its length, then data; again and again

function encodeRecords(entries: readonly { record: object; bytes: Uint8Array }[]): Uint8Array {
  const parts = entries.flatMap(({ record, bytes }) => {
    const text = Buffer.from(JSON.stringify({ ...record, length: bytes.length }));
    const length = Buffer.alloc(4);
    length.writeUInt32BE(text.length);
    return [length, text, bytes];
  });
  return new Uint8Array(Buffer.concat(parts));
}

function* decodeRecords(payload: Uint8Array): Generator<{ record: LogRecord; bytes: Uint8Array }> {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  let at = 0;
  while (at + 4 <= payload.length) {
    const textEnd = at + 4 + view.getUint32(at);
    let record: LogRecord & { length: number };
    try {
      record = JSON.parse(Buffer.from(payload.subarray(at + 4, textEnd)).toString());
    } catch {
      return; // only a store that accepts torn batches gets here
    }
    at = textEnd + record.length;
    yield { record, bytes: payload.slice(textEnd, at) };
  }
}

function encodeImage(volumes: ReadonlyMap<string, Volume>): Uint8Array {
  const entries: { record: object; bytes: Uint8Array }[] = [];
  for (const { name, sizeBytes, content } of volumes.values()) {
    entries.push({ record: { kind: "create", name, sizeBytes }, bytes: new Uint8Array(0) });
    for (const [chunk, bytes] of content.chunks) {
      const record = { kind: "write", name, offsetBytes: chunk * CHUNK_BYTES };
      entries.push({ record, bytes: bytes.slice() });
    }
  }
  return encodeRecords(entries);
}

function decodeImage(payload: Uint8Array): Map<string, Volume> {
  const volumes = new Map<string, Volume>();
  for (const { record, bytes } of decodeRecords(payload)) {
    const { kind, name, sizeBytes = 0, offsetBytes = 0 } = record;
    if (kind === "create") volumes.set(name, { name, sizeBytes, content: new SparseBytes() });
    else volumes.get(name)?.content.write(bytes, offsetBytes);
  }
  return volumes;
}
