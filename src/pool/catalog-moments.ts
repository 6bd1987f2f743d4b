// SPDX-License-Identifier: Apache-2.0
//
// Named moments: what the catalog knows of snapshots. A name belongs to a volume; clones don't inherit it. One record
// names the same moment for any number of volumes, so that it is there for all of them or for none. Names outlive the
// removal of their volume: they are a claim on its past, and it may come back.

import {
  type Fields,
  fieldsOf,
  isCount,
  isFlag,
  isId,
  isListOf,
  isNameField,
  isOptional,
  isText,
} from "./catalog-fields.ts";

/** A moment of a volume that has a name. */
export interface NamedMoment {
  readonly volume: number;
  readonly name: string;
  readonly lsn: number;
  readonly timeMicros: number;
  /** When the name is forgotten; null: never. */
  readonly expiresMicros: number | null;
  /** Not to be removed before it expires. */
  readonly isProtected: boolean;
  readonly description: string;
}

/** A name in a record. */
export interface MomentName {
  readonly volume: number;
  readonly name: string;
}

/** Whether the volume was there, and live, at that moment. */
type IsLiveAt = (volume: number, lsn: number) => boolean;

export class NamedMoments {
  readonly #byVolume: Map<number, Map<string, NamedMoment>> = new Map();

  /** Of one volume, oldest moment first. */
  of(volume: number): NamedMoment[] {
    return [...(this.#byVolume.get(volume)?.values() ?? [])].sort(
      (a, b) => a.lsn - b.lsn || (a.name < b.name ? -1 : 1),
    );
  }

  find({ volume, name }: MomentName): NamedMoment | undefined {
    return this.#byVolume.get(volume)?.get(name);
  }

  *all(): IterableIterator<NamedMoment> {
    for (const names of this.#byVolume.values()) yield* names.values();
  }

  /** MOMENT_NAMED. False when it makes no sense; then nothing has changed. */
  named(body: Fields, isLiveAt: IsLiveAt): boolean {
    const { lsn, timeMicros, moments, expiresMicros = null } = body;
    const { isProtected = false, description = "" } = body;
    if (!isCount(lsn) || !isCount(timeMicros) || !isExpiry(expiresMicros)) return false;
    if (!isFlag(isProtected) || !isText(description) || !isListOfNames(moments)) return false;
    if (moments.some((one) => this.find(one) !== undefined || !isLiveAt(one.volume, lsn)))
      return false;
    for (const { volume, name } of moments)
      this.#put({ volume, name, lsn, timeMicros, expiresMicros, isProtected, description });
    return true;
  }

  /** MOMENT_FORGOTTEN, likewise. */
  forgotten({ moments }: Fields): boolean {
    if (!isListOfNames(moments)) return false;
    if (moments.some((one) => this.find(one) === undefined)) return false;
    for (const one of moments) this.#delete(one);
    return true;
  }

  /** MOMENT_SET, likewise. */
  set(body: Fields): boolean {
    const { newName, expiresMicros, isProtected, description } = body;
    if (!isMomentName(body)) return false;
    const before = this.find(body);
    if (before === undefined || !isOptional(newName, isNameField)) return false;
    if (!isOptional(expiresMicros, isExpiry)) return false;
    if (!isOptional(isProtected, isFlag) || !isOptional(description, isText)) return false;
    const { volume, name } = before;
    if (newName !== undefined && newName !== name && this.find({ volume, name: newName }))
      return false;
    this.#delete(before);
    this.#put({
      ...before,
      name: newName ?? name,
      expiresMicros: expiresMicros === undefined ? before.expiresMicros : expiresMicros,
      isProtected: isProtected ?? before.isProtected,
      description: description ?? before.description,
    });
    return true;
  }

  toJson(): readonly NamedMoment[] {
    return [...this.all()];
  }

  /** Takes what `toJson` gave. False when it makes no sense. */
  take(json: unknown, isLiveAt: IsLiveAt): boolean {
    if (!Array.isArray(json)) return false;
    return json.every((value) => {
      const { volume, name, ...rest } = fieldsOf(value);
      return this.named({ ...rest, moments: [{ volume, name }] }, isLiveAt);
    });
  }

  #put(moment: NamedMoment): void {
    const names = this.#byVolume.get(moment.volume) ?? new Map<string, NamedMoment>();
    names.set(moment.name, moment);
    this.#byVolume.set(moment.volume, names);
  }

  #delete({ volume, name }: MomentName): void {
    const names = this.#byVolume.get(volume);
    names?.delete(name);
    if (names?.size === 0) this.#byVolume.delete(volume);
  }
}

function isExpiry(value: unknown): value is number | null {
  return value === null || isCount(value);
}

function isMomentName(value: unknown): value is MomentName {
  const { volume, name } = fieldsOf(value);
  return isId(volume) && isNameField(name);
}

/** One at least, and none twice. */
function isListOfNames(value: unknown): value is MomentName[] {
  if (!isListOf(value, isMomentName) || value.length === 0) return false;
  return new Set(value.map(({ volume, name }) => `${volume}@${name}`)).size === value.length;
}
