// SPDX-License-Identifier: Apache-2.0
//
// Virtual time. Everything that would happen later on a real machine (a timer, the end of a disk write, a
// client's next request) is an event in one heap, ordered by its time and, among equals, by the seed. One
// step runs one event; the promises that it settles run before the next step, because whoever drives the
// simulation returns to the JavaScript engine in between (see Pump). So one seed is one schedule, a
// simulated hour takes as long as its events, and a run can be cut between any two of them.
//
// Events belong to a process. When it dies its events die with it: what it awaited never comes.

import { assert } from "../base/assert.ts";
import type { Clock, Logger, LogLevel, Random } from "../host/ports.ts";
import type { Prng } from "./prng.ts";
import type { Trace } from "./trace.ts";

/**
 * Calls `step` until it returns false, letting all settled promises run in between. Real turns of the
 * event loop are not the simulator's to take, so whoever runs it brings this (test/sim/pump.ts).
 */
export type Pump = (step: () => boolean) => Promise<void>;

/** One life of the program under test: from its start to its end, crash or kill. */
export interface SimProcess {
  readonly number: number;
  isAlive: boolean;
}

interface ScheduledEvent {
  readonly timeMicros: number;
  readonly tie: number;
  readonly sequence: number;
  readonly process: SimProcess | undefined;
  readonly what: string;
  run: (() => void) | undefined;
}

export class SimScheduler {
  readonly trace: Trace;
  readonly #prng: Prng;
  readonly #heap: ScheduledEvent[] = [];
  #nowMicros = 0;
  #sequence = 0;
  #stepCount = 0;

  constructor(prng: Prng, trace: Trace) {
    this.#prng = prng;
    this.trace = trace;
  }

  /** µs since the simulation began. */
  get nowMicros(): number {
    return this.#nowMicros;
  }

  get stepCount(): number {
    return this.#stepCount;
  }

  /** Runs `run` once after `delayMicros`, unless `process` is dead by then. Returns how to cancel it. */
  schedule(
    delayMicros: number,
    event: { readonly what: string; readonly process?: SimProcess | undefined },
    run: () => void,
  ): () => void {
    assert(delayMicros >= 0, "nothing is scheduled in the past");
    const entry: ScheduledEvent = {
      timeMicros: this.#nowMicros + Math.round(delayMicros),
      tie: this.#prng.word(),
      sequence: this.#sequence++,
      process: event.process,
      what: event.what,
      run,
    };
    this.#push(entry);
    return () => {
      entry.run = undefined;
    };
  }

  /** Runs the next event; false when none is left. */
  step(): boolean {
    for (;;) {
      const event = this.#pop();
      if (event === undefined) return false;
      const run = event.run;
      if (run === undefined || event.process?.isAlive === false) continue;
      event.run = undefined;
      assert(event.timeMicros >= this.#nowMicros, "virtual time never goes back");
      this.#nowMicros = event.timeMicros;
      this.#stepCount += 1;
      this.trace.mix(event.timeMicros);
      this.trace.mix(event.sequence);
      run();
      return true;
    }
  }

  #push(event: ScheduledEvent): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!isBefore(event, heap[parent] as ScheduledEvent)) break;
      heap[at] = heap[parent] as ScheduledEvent;
      at = parent;
    }
    heap[at] = event;
  }

  #pop(): ScheduledEvent | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || first === last) return first;
    let at = 0;
    for (;;) {
      let child = at * 2 + 1;
      if (child >= heap.length) break;
      const right = child + 1;
      if (
        right < heap.length &&
        isBefore(heap[right] as ScheduledEvent, heap[child] as ScheduledEvent)
      ) {
        child = right;
      }
      if (!isBefore(heap[child] as ScheduledEvent, last)) break;
      heap[at] = heap[child] as ScheduledEvent;
      at = child;
    }
    heap[at] = last;
    return first;
  }
}

function isBefore(one: ScheduledEvent, other: ScheduledEvent): boolean {
  if (one.timeMicros !== other.timeMicros) return one.timeMicros < other.timeMicros;
  if (one.tie !== other.tie) return one.tie < other.tie;
  return one.sequence < other.sequence;
}

/** 2026-01-01T00:00:00Z: where simulated wall time begins. */
const WALL_START_MICROS = 1_767_225_600_000_000;

/** What a machine's clocks show; outlives its processes. */
export interface MachineTime {
  /** Added to wall time; a step of the clock changes it. */
  wallOffsetMicros: number;
  /** When the machine was switched on: the origin of monotone time. */
  bootMicros: number;
}

/** The clock of one process. Timers are late by chance, never early, as on a busy machine. */
export class SimClock implements Clock {
  readonly #scheduler: SimScheduler;
  readonly #process: SimProcess;
  readonly #time: MachineTime;
  readonly #prng: Prng;

  constructor(options: {
    readonly scheduler: SimScheduler;
    readonly process: SimProcess;
    readonly time: MachineTime;
    readonly prng: Prng;
  }) {
    this.#scheduler = options.scheduler;
    this.#process = options.process;
    this.#time = options.time;
    this.#prng = options.prng;
  }

  wallMicros(): number {
    return WALL_START_MICROS + this.#scheduler.nowMicros + this.#time.wallOffsetMicros;
  }

  monotoneMicros(): number {
    return this.#scheduler.nowMicros - this.#time.bootMicros + 1_000_000;
  }

  after(delayMs: number, callback: () => void): () => void {
    const lateMicros = this.#prng.chance(0.1) ? this.#prng.below(20_000) : this.#prng.below(200);
    const event = { what: "timer", process: this.#process };
    return this.#scheduler.schedule(Math.max(0, delayMs * 1000) + lateMicros, event, callback);
  }

  afterInput(callback: () => void): void {
    // A turn takes time, so that whoever waits turn by turn gets somewhere.
    const event = { what: "after input", process: this.#process };
    this.#scheduler.schedule(1 + this.#prng.below(3), event, callback);
  }
}

/** Chance for the program under test. */
export class SimRandom implements Random {
  readonly #prng: Prng;

  constructor(prng: Prng) {
    this.#prng = prng;
  }

  fill(bytes: Uint8Array): void {
    for (let index = 0; index < bytes.length; index++) bytes[index] = this.#prng.word() >>> 24;
  }
}

export interface LogLine {
  readonly timeMicros: number;
  readonly level: LogLevel;
  readonly event: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

const LOG_LINES_MAX = 1000;

/** Keeps the last lines for checks and for the report of a failure. */
export class SimLogger implements Logger {
  readonly #scheduler: SimScheduler;
  readonly #lines: LogLine[] = [];

  constructor(scheduler: SimScheduler) {
    this.#scheduler = scheduler;
  }

  get lines(): readonly LogLine[] {
    return this.#lines;
  }

  log(level: LogLevel, event: string, fields: Readonly<Record<string, unknown>> = {}): void {
    if (this.#lines.length >= LOG_LINES_MAX) this.#lines.splice(0, LOG_LINES_MAX / 2);
    this.#lines.push({ timeMicros: this.#scheduler.nowMicros, level, event, fields });
  }
}
