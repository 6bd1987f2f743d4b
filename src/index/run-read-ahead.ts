// SPDX-License-Identifier: Apache-2.0
//
// Reads runs in large pieces for whoever goes through their nodes in order, as a checkpoint does: nodes lie in a run
// in the order of their pages, so the next one wanted is nearly always in the piece already read. A few pieces are
// kept, one per run, because unchanged pages of one chunk may lie in several runs.

import type { RunStore } from "./run-file.ts";

const PIECE_BYTES = 256 << 10;
const PIECES_MAX = 4;

interface Piece {
  readonly run: number;
  readonly bytes: Uint8Array;
  start: number;
  end: number;
}

export class RunReadAhead implements RunStore {
  readonly #runs: RunStore;
  /** In order of use, oldest first. */
  readonly #pieces: Piece[] = [];

  constructor(runs: RunStore) {
    this.#runs = runs;
  }

  async read(run: number, target: Uint8Array, position: number): Promise<number> {
    const piece = this.#pieceOf(run);
    if (position < piece.start || position + target.length > piece.end) {
      piece.start = position;
      piece.end = position; // what a failed read leaves
      piece.end += await this.#runs.read(run, piece.bytes, position);
    }
    const available = Math.min(target.length, piece.end - position);
    target.set(piece.bytes.subarray(position - piece.start, position - piece.start + available));
    return available;
  }

  #pieceOf(run: number): Piece {
    const at = this.#pieces.findIndex((piece) => piece.run === run);
    if (at >= 0) {
      const [found] = this.#pieces.splice(at, 1) as [Piece];
      this.#pieces.push(found);
      return found;
    }
    const oldest = this.#pieces.length === PIECES_MAX ? this.#pieces.shift() : undefined;
    const piece = { run, bytes: oldest?.bytes ?? new Uint8Array(PIECE_BYTES), start: 0, end: 0 };
    this.#pieces.push(piece);
    return piece;
  }
}
