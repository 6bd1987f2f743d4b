// SPDX-License-Identifier: Apache-2.0
//
// Checks packs: that each is there, with the right head and length; and as deep as is wanted, that groups decompress to
// blocks that have the ids which the pack says. Which groups a sample takes follows from a seed, so that the same ones can
// be looked at again, and other ones the next time.

import { hash } from "node:crypto";
import type { DamageList } from "./damage.ts";
import type { PackHead } from "./pack-head.ts";
import { BLOCK_BYTES, GROUP_SLOTS } from "./place.ts";
import { objectPath } from "./sealed-object.ts";
import { CONTENT_ID_BYTES } from "./sealing.ts";
import type { TargetReader } from "./target-reader.ts";

/** Groups of a pack that are read together: 4 MiB of blocks. */
const GROUPS_AT_ONCE = 16;

/** Which groups are read: none, all, or this share of them, between 0 and 1. */
export type GroupChoice = "none" | "all" | { readonly share: number; readonly seed: number };

export interface PackCheckProgress {
  /** Slots of the pack; 0: its head can't be had. */
  readonly slotCount: number;
  /** Stored bytes that were read. */
  readonly bytesRead: number;
  readonly groupsRead: number;
}

export class PackCheck {
  readonly #reader: TargetReader;
  readonly #damages: DamageList;
  readonly #choice: GroupChoice;
  readonly #id: Uint8Array = new Uint8Array(CONTENT_ID_BYTES);

  constructor(reader: TargetReader, damages: DamageList, choice: GroupChoice) {
    this.#reader = reader;
    this.#damages = damages;
    this.#choice = choice;
  }

  /** Throws TARGET_UNAVAILABLE when the target is gone. */
  async check(ordinal: number): Promise<PackCheckProgress> {
    const name = this.#reader.packTable.nameOf(ordinal);
    const object = objectPath("pack", name);
    let head: PackHead | undefined;
    const damage = await this.#damages.during(object, async () => {
      head = await this.#reader.packs.head(name);
    });
    if (damage !== undefined) this.#damages.packIsLost(ordinal, damage);
    if (head === undefined) return { slotCount: 0, bytesRead: 0, groupsRead: 0 };
    await this.#checkSize(name);
    const groups = this.#chosen(name, head.groupCount);
    if (groups.length === 0) return { slotCount: head.slotCount, bytesRead: 0, groupsRead: 0 };
    let ids: Uint8Array | undefined;
    // Without them the blocks can still be had: only what a later backup could have learned is lost.
    await this.#damages.during(object, async () => {
      ids = await this.#reader.packs.ids(name);
    });
    let bytesRead = head.idsStoredBytes;
    for (let at = 0; at < groups.length; at += GROUPS_AT_ONCE) {
      const some = groups.slice(at, at + GROUPS_AT_ONCE);
      await this.#checkGroups({ ordinal, object, ids }, some);
      for (const group of some) bytesRead += head.storedBytes(group);
    }
    return { slotCount: head.slotCount, bytesRead, groupsRead: groups.length };
  }

  /** What is behind the pack's end does no harm, but nobody put it there. */
  async #checkSize(name: string): Promise<void> {
    const object = objectPath("pack", name);
    await this.#damages.during(object, async () => {
      const [expected, found] = await Promise.all([
        this.#reader.packs.sizeBytes(name),
        this.#reader.store.sizeOf(object),
      ]);
      if (found !== expected)
        this.#damages.add(object, `${object}: it has ${found ?? 0} bytes instead of ${expected}`);
    });
  }

  async #checkGroups(
    pack: { ordinal: number; object: string; ids: Uint8Array | undefined },
    groups: readonly number[],
  ): Promise<void> {
    const { ordinal, object, ids } = pack;
    const contents = groups.map(
      (group) => this.#reader.packs.groups(ordinal, group, group + 1)[0]!,
    );
    for (const [index, content] of contents.entries()) {
      const group = groups[index]!;
      const damage = await this.#damages.during(object, async () => {
        const wrong = ids === undefined ? -1 : this.#wrongSlot(await content, ids, group);
        await content;
        if (wrong < 0) return;
        const why = `${object}: slot ${wrong} holds another block than its id says`;
        this.#damages.groupIsLost(ordinal, group, this.#damages.add(object, why));
      });
      if (damage !== undefined) this.#damages.groupIsLost(ordinal, group, damage);
    }
  }

  /** The first slot of the group whose block has another id; -1: none. */
  #wrongSlot(content: Uint8Array, ids: Uint8Array, group: number): number {
    for (let at = 0; at < content.length; at += BLOCK_BYTES) {
      const slot = group * GROUP_SLOTS + at / BLOCK_BYTES;
      this.#reader.sealer.contentId(content.subarray(at, at + BLOCK_BYTES), this.#id, 0);
      for (let index = 0; index < CONTENT_ID_BYTES; index += 1)
        if (this.#id[index] !== ids[slot * CONTENT_ID_BYTES + index]) return slot;
    }
    return -1;
  }

  #chosen(name: string, groupCount: number): number[] {
    const choice = this.#choice;
    if (choice === "none") return [];
    const all = Array.from({ length: groupCount }, (_, group) => group);
    if (choice === "all") return all;
    return all.filter((group) => {
      const draw = hash("sha256", `${choice.seed} ${name} ${group}`, "buffer").readUInt32LE(0);
      return draw < choice.share * 2 ** 32;
    });
  }
}
