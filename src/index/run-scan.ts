// SPDX-License-Identifier: Apache-2.0
//
// Judges a whole run: header, every node with its checksum and identity, body and trailer. A node that is damaged
// doesn't hide those behind it: each node says where it is, and so the next one is found.

import { hashOutside } from "../log/outside-hash.ts";
import { getU64 } from "../log/record.ts";
import { checksumMatches, isPoolId } from "../log/self-check.ts";
import { decodeEntries, isChange, isChangedPage, isRange } from "./change-list.ts";
import type { CheckpointSource } from "./checkpoint-loader.ts";
import { decodeRelocationDirectory, isRelocations } from "./relocation-node.ts";
import {
  DIRECTORY_BYTES_MAX,
  NODE_HEADER_BYTES,
  NODE_KIND,
  RUN_HEADER_BYTES,
  RUN_HEADER_CHECKSUM_AT,
  RUN_TRAILER_BYTES,
  RUN_TRAILER_CHECKSUM_AT,
  runName,
} from "./run-file.ts";

const WINDOW_BYTES: number = 1 << 20;

/** Tells what is wrong with a run of `sizeBytes`. Throws DISK_IO. */
export async function scanRun(
  source: CheckpointSource,
  run: { readonly number: number; readonly sizeBytes: number },
  onProblem: (problem: string, offset: number) => void,
): Promise<void> {
  const window = source.memory.staging.allocate(WINDOW_BYTES);
  try {
    await new RunScan(source, { ...run, window }, onProblem).run();
  } finally {
    source.memory.staging.release(window);
  }
}

class RunScan {
  readonly #source: CheckpointSource;
  readonly #number: number;
  readonly #sizeBytes: number;
  /** Address of the bytes [start, start + length) of the run. */
  readonly #window: number;
  #windowStart = 0;
  #windowBytes = 0;
  readonly #onProblem: (problem: string, offset: number) => void;

  constructor(
    source: CheckpointSource,
    run: { readonly number: number; readonly sizeBytes: number; readonly window: number },
    onProblem: (problem: string, offset: number) => void,
  ) {
    this.#source = source;
    this.#number = run.number;
    this.#sizeBytes = run.sizeBytes;
    this.#window = run.window;
    this.#onProblem = onProblem;
  }

  async run(): Promise<void> {
    const { memory, poolId } = this.#source;
    const header = await this.#at(0, RUN_HEADER_BYTES);
    if (header === undefined) return this.#tell(0, "cut off");
    const isRight =
      checksumMatches(memory, header, RUN_HEADER_CHECKSUM_AT) &&
      isPoolId(memory, header + 16, poolId) &&
      getU64(memory.view, header + 32) === this.#number;
    if (!isRight) this.#tell(0, "its header is damaged");
    const bodyOffset = await this.#findBody();
    if (bodyOffset === undefined) return;
    await this.#scanNodes(bodyOffset);
    await this.#checkBody(bodyOffset);
  }

  /** Checks the trailer; by that, or else by the nodes themselves, where the body begins. */
  async #findBody(): Promise<number | undefined> {
    const at = this.#sizeBytes - RUN_TRAILER_BYTES;
    const bytes = new Uint8Array(RUN_TRAILER_BYTES);
    if ((await this.#source.runs.read(this.#number, bytes, at)) < bytes.length) {
      this.#tell(at, "cut off");
      return undefined;
    }
    const view = new DataView(bytes.buffer);
    const checksum = hashOutside(this.#source.memory, bytes.subarray(0, RUN_TRAILER_CHECKSUM_AT));
    const offset = getU64(view, 16);
    const isRight =
      checksum === view.getBigUint64(RUN_TRAILER_CHECKSUM_AT, true) &&
      view.getUint32(8, true) === this.#number &&
      offset >= RUN_HEADER_BYTES &&
      offset + getU64(view, 24) === at;
    if (isRight) return offset;
    this.#tell(at, "its trailer is damaged");
    return await this.#nextNode(RUN_HEADER_BYTES, at, [NODE_KIND.BODY, NODE_KIND.CHANGE_LISTS]);
  }

  async #scanNodes(bodyOffset: number): Promise<void> {
    for (let at = RUN_HEADER_BYTES; at < bodyOffset; ) {
      const lengthBytes = await this.#nodeLength(at, bodyOffset);
      if (lengthBytes > 0) {
        at += lengthBytes;
        continue;
      }
      const next = (await this.#nextNode(at + 8, bodyOffset)) ?? bodyOffset;
      this.#tell(at, `a node up to ${next} is damaged`);
      at = next;
    }
  }

  /** Bytes of the node at `at`; 0 when it is damaged. */
  async #nodeLength(at: number, end: number): Promise<number> {
    const { memory } = this.#source;
    const address = await this.#at(at, Math.min(DIRECTORY_BYTES_MAX, end - at));
    if (address === undefined || end - at < NODE_HEADER_BYTES) return 0;
    const lengthBytes = NODE_HEADER_BYTES + memory.view.getUint32(address + 28, true);
    if (lengthBytes > Math.min(DIRECTORY_BYTES_MAX, end - at) || lengthBytes % 8 !== 0) return 0;
    const isRight =
      this.#isHere(address, at) &&
      memory.hash(address + 8, lengthBytes - 8) === memory.view.getBigUint64(address, true) &&
      this.#hasSense(address);
    return isRight ? lengthBytes : 0;
  }

  /** Of moved frames and changes nobody compares the content with another reading: so it is judged here. */
  #hasSense(address: number): boolean {
    const { memory } = this.#source;
    switch (memory.view.getUint8(address + 16)) {
      case NODE_KIND.RELOCATIONS:
        return isRelocations(memory, address);
      case NODE_KIND.RELOCATION_DIRECTORY:
        return decodeRelocationDirectory(memory, address) !== undefined;
      case NODE_KIND.CHANGES:
        return decodeEntries(memory, address, isChange) !== undefined;
      case NODE_KIND.CHANGED_PAGES:
        return decodeEntries(memory, address, isChangedPage) !== undefined;
      case NODE_KIND.RANGES:
        return decodeEntries(memory, address, isRange) !== undefined;
      default:
        return true;
    }
  }

  /** Whether a node at this address says that it is at `at` of this run. */
  #isHere(address: number, at: number): boolean {
    const { view } = this.#source.memory;
    return (
      view.getUint32(address + 8, true) === this.#number &&
      view.getUint32(address + 12, true) * 8 === at
    );
  }

  /** The next place from `from` on that says it is a node; of one of these kinds, if any are named. */
  async #nextNode(
    from: number,
    end: number,
    kinds?: readonly number[],
  ): Promise<number | undefined> {
    const { view } = this.#source.memory;
    for (let at = from; at + NODE_HEADER_BYTES <= end; at += 8) {
      const address = await this.#at(at, NODE_HEADER_BYTES);
      if (address === undefined) return undefined;
      if (!this.#isHere(address, at)) continue;
      if (kinds === undefined || kinds.includes(view.getUint8(address + 16))) return at;
    }
    return undefined;
  }

  async #checkBody(offset: number): Promise<void> {
    const { memory, runs } = this.#source;
    const bytes = new Uint8Array(this.#sizeBytes - RUN_TRAILER_BYTES - offset);
    await runs.read(this.#number, bytes, offset);
    const isRight =
      bytes.length >= NODE_HEADER_BYTES &&
      hashOutside(memory, bytes.subarray(8)) === new DataView(bytes.buffer).getBigUint64(0, true);
    if (!isRight) this.#tell(offset, "its body is damaged");
  }

  /** The address of the bytes at `offset`; undefined when there are fewer than `lengthBytes`. */
  async #at(offset: number, lengthBytes: number): Promise<number | undefined> {
    const { memory, runs } = this.#source;
    const end = this.#windowStart + this.#windowBytes;
    if (offset < this.#windowStart || offset + lengthBytes > end) {
      const target = memory.bytes.subarray(this.#window, this.#window + WINDOW_BYTES);
      this.#windowBytes = await runs.read(this.#number, target, offset);
      this.#windowStart = offset;
    }
    return this.#windowBytes - (offset - this.#windowStart) < lengthBytes
      ? undefined
      : this.#window + (offset - this.#windowStart);
  }

  #tell(offset: number, problem: string): void {
    this.#onProblem(`index: ${runName(this.#number)}, offset ${offset}: ${problem}`, offset);
  }
}
