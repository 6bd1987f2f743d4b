// SPDX-License-Identifier: Apache-2.0
//
// Reads runs in large pieces for whoever goes through their nodes in order, as a checkpoint does: nodes lie in a run
// in the order of their pages, so the next one wanted is nearly always in the piece already read. A few pieces are
// kept, one per run, because unchanged pages of one chunk may lie in several runs.
//
// Who wants a node here and there reads no more than that: pieces grow as long as what is wanted lies behind what was read.

import type { RunStore } from "./run-file.ts";

const PIECE_BYTES = 256 << 10;
const PIECES_MAX = 4;
/** What is skipped between two nodes in a row. */
const GAP_BYTES_MAX = 64 << 10;
const GROWTH = 4;

interface Piece {
  readonly run: number;
  bytes: Uint8Array;
  start: number;
  end: number;
}

/** One read at a time. */
export class RunReadAhead implements RunStore {
  readonly #runs: RunStore;
  readonly #piecesMax: number;
  /** In order of use, oldest first. */
  readonly #pieces: Piece[] = [];

  constructor(runs: RunStore, piecesMax: number = PIECES_MAX) {
    this.#runs = runs;
    this.#piecesMax = piecesMax;
  }

  async read(run: number, target: Uint8Array, position: number): Promise<number> {
    const piece = this.#pieceOf(run);
    const isThere = position >= piece.start && position + target.length <= piece.end;
    if (!isThere) await this.#fill(piece, position, target.length);
    const available = Math.min(target.length, piece.end - position);
    target.set(piece.bytes.subarray(position - piece.start, position - piece.start + available));
    return available;
  }

  async #fill(piece: Piece, position: number, lengthBytes: number): Promise<void> {
    const isNext = position >= piece.start && position <= piece.end + GAP_BYTES_MAX;
    const wantedBytes = isNext && piece.end > piece.start ? piece.bytes.length * GROWTH : 0;
    const pieceBytes = Math.max(lengthBytes, Math.min(PIECE_BYTES, wantedBytes));
    if (piece.bytes.length !== pieceBytes) piece.bytes = new Uint8Array(pieceBytes);
    piece.start = position;
    piece.end = position; // what a failed read leaves
    piece.end += await this.#runs.read(piece.run, piece.bytes, position);
  }

  #pieceOf(run: number): Piece {
    const at = this.#pieces.findIndex((piece) => piece.run === run);
    if (at === this.#pieces.length - 1 && at >= 0) return this.#pieces[at] as Piece;
    if (at >= 0) {
      const [found] = this.#pieces.splice(at, 1) as [Piece];
      this.#pieces.push(found);
      return found;
    }
    if (this.#pieces.length === this.#piecesMax) this.#pieces.shift();
    const piece = { run, bytes: new Uint8Array(0), start: 0, end: 0 };
    this.#pieces.push(piece);
    return piece;
  }
}
