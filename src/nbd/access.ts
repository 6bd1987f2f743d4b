// SPDX-License-Identifier: Apache-2.0
//
// Who may open which export: a pure decision from rules and what is known of a client. An export that no
// rule names is open to everybody who can reach the door; one that is named is open to those whom an
// entry of its rules lets in. An entry lets in who meets all of its conditions. What isn't known of a
// client (no certificate, a uid that couldn't be found out) meets no condition: the answer is no.
//
// A rule for "db" holds for every moment of it too ("db@-10m"); "*" is every export without a rule.

import { StorageError } from "../base/errors.ts";
import type { ClientIdentity } from "./block-device.ts";

/** Conditions that must all be met; an entry without any lets everybody in. */
export interface AccessEntry {
  /** "192.168.1.0/24", "fd00::/8", or one address. */
  readonly address?: string;
  readonly unixUid?: number;
  /** Common name of a verified client certificate. */
  readonly certificateName?: string;
  readonly pskIdentity?: string;
}

export interface AccessRule {
  /** Name of an export, or "*". */
  readonly exportName: string;
  /** The export is only to be had over TLS, and is not listed without. */
  readonly needsTls?: boolean;
  readonly allow: readonly AccessEntry[];
}

interface ParsedEntry {
  readonly entry: AccessEntry;
  readonly network: Network | undefined;
}

interface ParsedRule {
  readonly needsTls: boolean;
  readonly entries: readonly ParsedEntry[];
}

const EVERYBODY: ParsedRule = { needsTls: false, entries: [{ entry: {}, network: undefined }] };

export class AccessPolicy {
  readonly #rules = new Map<string, ParsedRule>();

  /** Throws CONFIG_INVALID. */
  constructor(rules: readonly AccessRule[]) {
    for (const rule of rules) {
      if (this.#rules.has(rule.exportName)) {
        throw invalid(`export "${rule.exportName}"`, "it has two access lists");
      }
      const entries = rule.allow.map((entry) => ({ entry, network: parseEntry(entry) }));
      this.#rules.set(rule.exportName, { needsTls: rule.needsTls ?? false, entries });
    }
  }

  needsTls(exportName: string): boolean {
    return this.#ruleFor(exportName).needsTls;
  }

  get hasRules(): boolean {
    return this.#rules.size > 0;
  }

  /** A uid is asked for by some rule: worth finding out. */
  get isUidNeeded(): boolean {
    return [...this.#rules.values()].some((rule) =>
      rule.entries.some(({ entry }) => entry.unixUid !== undefined),
    );
  }

  isAllowed(exportName: string, client: ClientIdentity & { readonly ip?: string }): boolean {
    return this.#ruleFor(exportName).entries.some((entry) => isMet(entry, client));
  }

  #ruleFor(exportName: string): ParsedRule {
    const at = exportName.indexOf("@");
    const volume = at < 0 ? exportName : exportName.slice(0, at);
    return (
      this.#rules.get(exportName) ?? this.#rules.get(volume) ?? this.#rules.get("*") ?? EVERYBODY
    );
  }
}

function isMet(
  { entry, network }: ParsedEntry,
  client: ClientIdentity & { readonly ip?: string },
): boolean {
  if (network !== undefined && !isInside(network, client.ip)) return false;
  if (entry.unixUid !== undefined && entry.unixUid !== client.unixUid) return false;
  if (entry.certificateName !== undefined && entry.certificateName !== client.certificateName) {
    return false;
  }
  return entry.pskIdentity === undefined || entry.pskIdentity === client.pskIdentity;
}

function parseEntry(entry: AccessEntry): Network | undefined {
  const { unixUid, address } = entry;
  if (unixUid !== undefined && !(Number.isInteger(unixUid) && unixUid >= 0)) {
    throw invalid(`unix uid ${unixUid}`, "it is not a user id");
  }
  if (address === undefined) return undefined;
  const network = parseNetwork(address);
  if (network === undefined) throw invalid(`address "${address}"`, "it is not an IP network");
  return network;
}

function invalid(subject: string, why: string): StorageError {
  return new StorageError("CONFIG_INVALID", `${subject}: access list refused: ${why}`);
}

/** Addresses as bytes, 4 or 16 of them. */
export interface Network {
  readonly bytes: readonly number[];
  readonly prefixBits: number;
}

/** "10.0.0.0/8", "::1", "fe80::/10"; undefined if it isn't one. */
export function parseNetwork(text: string): Network | undefined {
  const [address = "", prefix, more] = text.split("/");
  const bytes = parseAddress(address);
  if (bytes === undefined || more !== undefined) return undefined;
  if (prefix === undefined) return { bytes, prefixBits: bytes.length * 8 };
  if (!/^\d{1,3}$/.test(prefix) || Number(prefix) > bytes.length * 8) return undefined;
  return { bytes, prefixBits: Number(prefix) };
}

function isInside(network: Network, ip: string | undefined): boolean {
  const bytes = ip === undefined ? undefined : parseAddress(ip);
  if (bytes === undefined || bytes.length !== network.bytes.length) return false;
  for (let bit = 0; bit < network.prefixBits; bit += 8) {
    const count = Math.min(8, network.prefixBits - bit);
    const mask = (0xff << (8 - count)) & 0xff;
    const difference = (bytes[bit / 8] as number) ^ (network.bytes[bit / 8] as number);
    if ((difference & mask) !== 0) return false;
  }
  return true;
}

function parseAddress(text: string): readonly number[] | undefined {
  if (!text.includes(":")) return parseIpv4(text);
  const plain = text.split("%", 1)[0] as string; // a zone is the listener's business
  const halves = plain.split("::");
  if (halves.length > 2) return undefined;
  const [front, back] = halves.map((half) => (half === "" ? [] : parseGroups(half)));
  if (front === undefined || (halves.length === 2 && back === undefined)) return undefined;
  const missing = 16 - front.length - (back?.length ?? 0);
  if (halves.length === 1 ? missing !== 0 : missing < 2) return undefined;
  return [...front, ...new Array<number>(missing).fill(0), ...(back ?? [])];
}

function parseIpv4(text: string): readonly number[] | undefined {
  const parts = text.split(".");
  const isRight = parts.length === 4 && parts.every((part) => /^\d{1,3}$/.test(part));
  const bytes = parts.map(Number);
  return isRight && bytes.every((byte) => byte <= 255) ? bytes : undefined;
}

/** Groups of four hexadecimal digits; the last may be an IPv4 address. */
function parseGroups(text: string): number[] | undefined {
  const bytes: number[] = [];
  const groups = text.split(":");
  for (const [index, group] of groups.entries()) {
    if (index === groups.length - 1 && group.includes(".")) {
      const tail = parseIpv4(group);
      if (tail === undefined) return undefined;
      bytes.push(...tail);
      continue;
    }
    if (!/^[0-9a-fA-F]{1,4}$/.test(group)) return undefined;
    const value = Number.parseInt(group, 16);
    bytes.push(value >> 8, value & 0xff);
  }
  return bytes;
}
