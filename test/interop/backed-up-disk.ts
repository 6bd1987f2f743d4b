// SPDX-License-Identifier: Apache-2.0
//
// A volume that is written by chance and backed up again and again, and what it held each time: by checksum, kept apart
// from both the pool and the backups. Backups are commands, so they can be killed like any other process.

import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { connectStream } from "../../src/host/node/socket-connect.ts";
import { NbdClient } from "../../src/nbd/client.ts";
import type { Chance } from "./chance.ts";
import { closed, type Outcome, programEnv, type RunOptions } from "./command.ts";
import type { Scratch } from "./scratch.ts";
import { Server, VARVE } from "./server.ts";

const BLOCK_BYTES = 4096;
const MIB = 1 << 20;

export interface BackedUpPoint {
  readonly name: string;
  readonly digest: string;
}

export class BackedUpDisk {
  readonly server: Server;
  readonly target: string;
  readonly keyArgs: readonly string[];
  readonly points: BackedUpPoint[] = [];
  /** What the volume holds. */
  content: Buffer;
  readonly #scratch: Scratch;
  readonly #chance: Chance;
  #client: NbdClient | undefined;
  #number = 0;

  private constructor(
    scratch: Scratch,
    options: {
      server: Server;
      chance: Chance;
      sizeBytes: number;
      keyArgs: readonly string[];
      target: string;
    },
  ) {
    this.#scratch = scratch;
    this.server = options.server;
    this.#chance = options.chance;
    this.content = Buffer.alloc(options.sizeBytes);
    this.target = options.target;
    this.keyArgs = options.keyArgs;
  }

  static async start(
    scratch: Scratch,
    options: {
      readonly sizeBytes: number;
      readonly chance: Chance;
      readonly keyArgs?: readonly string[];
      /** Of several disks. */
      readonly target?: string;
    },
  ): Promise<BackedUpDisk> {
    const { sizeBytes, chance, keyArgs = [], target = scratch.path("target") } = options;
    const server = await Server.inScratch(scratch, { sizeBytes });
    const disk = new BackedUpDisk(scratch, { server, chance, sizeBytes, keyArgs, target });
    scratch.defer("the disk's connection", () => disk.disconnect());
    return disk;
  }

  get pool(): string {
    return join(this.server.directory, "pool");
  }

  /** Some requests: content of its own, content that repeats, zeros, trims. */
  async change(requestCount: number): Promise<void> {
    const client = await this.#connect();
    for (let count = 0; count < requestCount; count += 1) {
      const blocks = this.content.length / BLOCK_BYTES;
      const first = this.#chance.below(blocks);
      const length = Math.min(blocks - first, 1 + this.#chance.below(24)) * BLOCK_BYTES;
      const at = first * BLOCK_BYTES;
      const piece = this.content.subarray(at, at + length);
      const kind = this.#chance.below(10);
      if (kind < 7) {
        this.#fill(piece, kind < 5);
        await client.write(at, piece);
      } else {
        piece.fill(0);
        if (kind === 7) await client.trim(at, length);
        else await client.writeZeroes(at, length, { isHoleForbidden: kind === 8 });
      }
    }
    await client.flush();
  }

  #fill(piece: Buffer, isNew: boolean): void {
    for (let at = 0; at < piece.length; at += 4)
      piece.writeUInt32LE(isNew ? this.#chance.below(2 ** 32) : at & 0xff00, at);
  }

  async resize(sizeBytes: number): Promise<void> {
    await this.disconnect();
    await this.varve(["resize", "db", String(sizeBytes), "--force"]);
    const before = this.content;
    this.content = Buffer.alloc(sizeBytes);
    before.copy(this.content);
  }

  /** Names the moment; the function goes back to it. */
  async snapshot(): Promise<() => Promise<void>> {
    this.#number += 1;
    const name = `s${this.#number}`;
    await this.varve(["snapshot", `db@${name}`]);
    const content = Buffer.from(this.content);
    return async () => {
      await this.disconnect();
      await this.varve(["rewind", `db@${name}`, "--force"]);
      this.content = Buffer.from(content);
    };
  }

  varve(args: readonly string[], options?: RunOptions): Promise<Outcome> {
    return this.server.varve(args, options);
  }

  /** Backs up what the volume holds now; the command's answer. */
  async backUp(args: readonly string[] = []): Promise<BackupAnswer> {
    const name = `p${this.points.length}`;
    const { stdout } = await this.varve([
      "backup",
      "db",
      this.target,
      ...["--json", "--name", name],
      ...this.keyArgs,
      ...args,
    ]);
    this.points.push({ name, digest: sha256(this.content) });
    return JSON.parse(stdout) as BackupAnswer;
  }

  /** A backup that the caller ends. */
  beginBackup(args: readonly string[] = []): { child: ChildProcess; ended: Promise<number> } {
    const words = ["backup", "db", this.target, "--pool", this.pool, ...this.keyArgs, ...args];
    const child = spawn(VARVE, words, { env: programEnv(), stdio: "ignore" });
    const ended = closed(child);
    this.#scratch.defer("a backup", async () => {
      child.kill("SIGKILL");
      await ended;
    });
    return { child, ended };
  }

  /** What a point restores to, by checksum. */
  async digestOf(name: string): Promise<string> {
    const file = this.#scratch.path(`restored-${name}.raw`);
    const args = ["restore", `${this.target}@${name}`, "--volume", "db", "--to", file, "--force"];
    await this.varve([...args, ...this.keyArgs]);
    const hash = createHash("sha256");
    for await (const piece of createReadStream(file)) hash.update(piece as Buffer);
    await rm(file);
    return hash.digest("hex");
  }

  async disconnect(): Promise<void> {
    const client = this.#client;
    this.#client = undefined;
    await client?.close().catch(() => undefined);
  }

  async #connect(): Promise<NbdClient> {
    if (this.#client === undefined) {
      const stream = await connectStream({ kind: "unix", path: this.server.socket });
      this.#client = await NbdClient.open(stream, { exportName: "db" });
    }
    return this.#client;
  }
}

export interface BackupAnswer {
  readonly volumes: readonly {
    readonly parent?: string;
    readonly lostParent?: string;
    readonly isResumed: boolean;
  }[];
  readonly readBytes: number;
  readonly newBytes: number;
  readonly knownBytes: number;
  readonly storedBytes: number;
}

export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** A size between two, in whole blocks. */
export function sizeBetween(chance: Chance, fromMib: number, toMib: number): number {
  return fromMib * MIB + chance.below(((toMib - fromMib) * MIB) / BLOCK_BYTES) * BLOCK_BYTES;
}
