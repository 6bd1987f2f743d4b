// SPDX-License-Identifier: Apache-2.0
//
// What happened in a simulated run, twice: as a digest over every event, by which two runs are known to
// be the same, and as a ring of the last events in words, which is what a person reads when a check fails.
// Recording must cost next to nothing, so the ring keeps numbers and constant strings and is put into
// sentences only when somebody asks.

const RING_SIZE = 512;

export class Trace {
  #high = 0x243f6a88;
  #low = 0x85a308d3;
  #count = 0;
  readonly #words = new Map<string, number>();
  readonly #whats: string[] = new Array<string>(RING_SIZE).fill("");
  readonly #subjects: string[] = new Array<string>(RING_SIZE).fill("");
  readonly #numbers: Float64Array = new Float64Array(RING_SIZE * 3);

  /** How many events were recorded. */
  get eventCount(): number {
    return this.#count;
  }

  /** Records one event; `first` and `second` mean what `what` says they mean. */
  record(
    timeMicros: number,
    what: string,
    event: { readonly subject: string; readonly first: number; readonly second: number },
  ): void {
    const { subject, first, second } = event;
    const at = this.#count % RING_SIZE;
    this.#count += 1;
    this.#whats[at] = what;
    this.#subjects[at] = subject;
    this.#numbers[at * 3] = timeMicros;
    this.#numbers[at * 3 + 1] = first;
    this.#numbers[at * 3 + 2] = second;
    this.mix(timeMicros);
    this.mix((this.#wordOf(what) << 16) + this.#wordOf(subject));
    this.mix(first);
    this.mix(second);
  }

  /** Adds a number to the digest only. */
  mix(value: number): void {
    const high = Math.floor(value / 2 ** 32) | 0;
    this.#low = Math.imul(this.#low ^ (value | 0), 0x9e3779b1);
    this.#low ^= this.#low >>> 15;
    this.#high = Math.imul(this.#high ^ high ^ this.#low, 0x85ebca77);
    this.#high ^= this.#high >>> 13;
  }

  /** Adds the content of a write to the digest. */
  mixBytes(bytes: Uint8Array): void {
    let hash = bytes.length;
    let at = 0;
    if (bytes.byteOffset % 4 === 0) {
      const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);
      for (let index = 0; index < words.length; index++) {
        hash = Math.imul(hash ^ (words[index] as number), 0x01000193) ^ (hash >>> 17);
      }
      at = words.length * 4;
    }
    for (; at < bytes.length; at++) hash = Math.imul(hash ^ (bytes[at] as number), 0x01000193);
    this.mix(hash >>> 0);
  }

  /** 16 hexadecimal digits over everything recorded so far. */
  digest(): string {
    return hex(this.#high) + hex(this.#low);
  }

  /** The last `count` events, oldest first, a line each. */
  lines(count: number): string[] {
    const start = Math.max(0, this.#count - Math.min(count, RING_SIZE));
    const lines: string[] = [];
    for (let index = start; index < this.#count; index++) {
      const at = index % RING_SIZE;
      const [time, first, second] = this.#numbers.subarray(at * 3, at * 3 + 3);
      const seconds = ((time as number) / 1e6).toFixed(6).padStart(12);
      lines.push(`${seconds}  ${this.#whats[at]} ${this.#subjects[at]} ${first} ${second}`);
    }
    return lines;
  }

  #wordOf(text: string): number {
    let number = this.#words.get(text);
    if (number === undefined) {
      number = this.#words.size + 1;
      this.#words.set(text, number);
    }
    return number;
  }
}

function hex(word: number): string {
  return (word >>> 0).toString(16).padStart(8, "0");
}
