// SPDX-License-Identifier: Apache-2.0
//
// The words for a position in the log (DESIGN 2), and their only parser: export names over NBD, command lines and the
// control door all read moments here.
//
//   #1234567, lsn:1234567             the state after that record; the second form for URIs and shells
//   2026-03-01T12:00:00.250Z          the last record at or before (moment-time.ts)
//   -10m, -1h30m                      that long ago
//   flush:MOMENT                      the last flush at or before
//   before-upgrade                    a snapshot of the volume (names.ts)
//   now
//
// The first character decides which it is: "#", a digit, "-" or a letter; among those with a letter a colon sets "lsn:"
// and "flush:" apart from names. So no text means two things, and a name that is free today never gets another meaning.

import { StorageError } from "./errors.ts";
import { looksLikeTime, parseTime } from "./moment-time.ts";
import { isName } from "./names.ts";
import { formatTime, parseDurationMicros, spellDuration } from "./units.ts";

export type Moment =
  | { readonly kind: "now" }
  /** The state after the record with this LSN. */
  | { readonly kind: "lsn"; readonly lsn: number }
  /** Microseconds since 1970. */
  | { readonly kind: "time"; readonly micros: number }
  /** Microseconds before now. */
  | { readonly kind: "ago"; readonly micros: number }
  | { readonly kind: "flush"; readonly at: PlainMoment }
  | { readonly kind: "name"; readonly name: string };

/** A flush is looked for from any moment but another flush: that would be the same one. */
export type PlainMoment = Exclude<Moment, { readonly kind: "flush" }>;

/** A volume, and a moment of it where one was named. */
export interface VolumeMoment {
  /** As it was written: whoever looks it up says if there is none. */
  readonly volume: string;
  readonly moment: Moment | undefined;
}

/** Longer than any moment, even with needless zeros; export names may have 4096 bytes. */
const LENGTH_MAX = 128;
const SHOWN_MAX = 80;
const FLUSH = "flush:";

/** Throws MOMENT_INVALID. */
export function parseMoment(text: string): Moment {
  if (text.length > LENGTH_MAX)
    throw invalid(text, `it has ${text.length} characters, ${LENGTH_MAX} are allowed`);
  if (!text.startsWith(FLUSH)) return parsePlain(text, text);
  const at = text.slice(FLUSH.length);
  if (at === "") throw invalid(text, "flush: is followed by a moment, as in flush:-10m");
  if (at.startsWith(FLUSH)) throw invalid(text, "flush: stands once");
  return { kind: "flush", at: parsePlain(at, text) };
}

/** For options that look back, where "1h" can only mean an hour ago. Throws MOMENT_INVALID. */
export function parsePastMoment(text: string): Moment {
  const micros = text.length > LENGTH_MAX ? undefined : parseDurationMicros(text);
  return micros === undefined ? parseMoment(text) : { kind: "ago", micros };
}

/** "db", "db@-10m": the first "@" parts them, no name has one. Throws MOMENT_INVALID. */
export function parseVolumeMoment(text: string): VolumeMoment {
  const at = text.indexOf("@");
  if (at < 0) return { volume: text, moment: undefined };
  return { volume: text.slice(0, at), moment: parseMoment(text.slice(at + 1)) };
}

/** The shortest text that means exactly this. */
export function formatMoment(moment: Moment): string {
  switch (moment.kind) {
    case "now":
      return "now";
    case "lsn":
      return `#${moment.lsn}`;
    case "time":
      return formatTime(moment.micros);
    case "ago":
      return `-${spellDuration(moment.micros)}`;
    case "flush":
      return `${FLUSH}${formatMoment(moment.at)}`;
    case "name":
      return moment.name;
  }
}

/** What a client may write down: means the same disk tomorrow. */
export function stableName(volume: string, lsn: number): string {
  return `${volume}@#${lsn}`;
}

/** Whether it means another disk each time it is asked for. */
export function isRelative(moment: Moment): boolean {
  const { kind } = moment.kind === "flush" ? moment.at : moment;
  return kind === "now" || kind === "ago";
}

/** `whole` is what the user wrote. */
function parsePlain(text: string, whole: string): PlainMoment {
  if (text === "now") return { kind: "now" };
  const lsnText = /^(?:#|lsn:)(.*)$/s.exec(text)?.[1];
  if (lsnText !== undefined) return { kind: "lsn", lsn: parseLsn(lsnText, whole) };
  if (text.startsWith("-")) {
    const micros = /\s/.test(text) ? undefined : parseDurationMicros(text.slice(1));
    if (micros !== undefined) return { kind: "ago", micros };
    throw invalid(whole, "after the minus come numbers with w, d, h, m, s or ms, as in -1h30m");
  }
  if (looksLikeTime(text)) {
    const micros = parseTime(text);
    if (typeof micros === "number") return { kind: "time", micros };
    throw invalid(whole, micros);
  }
  if (isName(text)) return { kind: "name", name: text };
  throw invalid(whole, whyNot(text));
}

function parseLsn(text: string, whole: string): number {
  if (!/^\d+$/.test(text))
    throw invalid(whole, "an LSN is a whole number, as in #1234567 or lsn:1234567");
  const lsn = Number(text);
  if (Number.isSafeInteger(lsn)) return lsn;
  throw invalid(whole, `LSNs go up to ${Number.MAX_SAFE_INTEGER}`);
}

/** What was probably meant by a text that is no moment at all. */
function whyNot(text: string): string {
  if (text === "") return 'it is empty; in a URI "#" ends the name, write lsn: there';
  if (/^\d+$/.test(text)) return `an LSN is written #${text} or lsn:${text}`;
  if (parseDurationMicros(text) !== undefined) return `that long ago is written -${text.trim()}`;
  if (/^\d/.test(text))
    return "a time is written 2026-03-01T12:00:00Z, a snapshot's name begins with a letter";
  if (text === "lsn") return "lsn: is followed by a number";
  if (text === "flush") return "flush: is followed by a moment, as in flush:-10m";
  if (/\s/.test(text)) return "it holds white space";
  return "it is neither a position, a time, nor a name";
}

function invalid(text: string, why: string): StorageError {
  const shown = text.length > SHOWN_MAX ? `${text.slice(0, SHOWN_MAX)}…` : text;
  return new StorageError("MOMENT_INVALID", `moment ${JSON.stringify(shown)}: refused: ${why}`);
}
