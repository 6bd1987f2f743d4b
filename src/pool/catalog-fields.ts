// SPDX-License-Identifier: Apache-2.0
//
// What a field of the catalog may be. Records and checkpoints are bytes from a disk: nothing of them is taken into the
// catalog that didn't pass one of these.

import { isName } from "../base/names.ts";

/** A JSON object whose fields nobody has looked at yet. */
export type Fields = Readonly<Record<string, unknown>>;

/** Where a record stands in the log, and its recorded time. */
export interface RecordPlace {
  readonly lsn: number;
  readonly timeMicros: number;
}

export function fieldsOf(value: unknown): Fields {
  return typeof value === "object" && value !== null ? (value as Fields) : {};
}

/** Of a volume or a branch. */
export function isId(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0 && (value as number) < 2 ** 32;
}

export function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0 && (value as number) % 512 === 0;
}

/** Bytes, microseconds and LSNs. */
export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

export function isNameField(value: unknown): value is string {
  return typeof value === "string" && isName(value);
}

/** Not there, or as it must be. */
export function isOptional<T>(
  value: unknown,
  isValue: (value: unknown) => value is T,
): value is T | undefined {
  return value === undefined || isValue(value);
}

export function isText(value: unknown): value is string {
  return typeof value === "string";
}

export function isFlag(value: unknown): value is boolean {
  return typeof value === "boolean";
}

export function isListOf<T>(value: unknown, isItem: (item: unknown) => item is T): value is T[] {
  return Array.isArray(value) && value.every(isItem);
}
