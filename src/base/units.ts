// SPDX-License-Identifier: Apache-2.0
//
// Sizes, durations and times as people write and read them. Sizes are binary: 10G is 10 GiB, as in every
// tool of the field; "10GB" could mean either and is refused. Durations are numbers with units, w d h m s ms,
// the large ones first: 1h30m. Times are UTC, ISO 8601, to the microsecond where there is one; base/moment-time.ts
// reads them.
//
// The parsers answer undefined for what they don't understand: only the caller knows what to call it in
// the error message.

const SIZE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] as const;
const SIZE_PATTERN = /^(\d{1,17})(?:\.(\d{1,9}))?\s*(?:([KMGTP])(?:i?|iB)|B)?$/i;
const SIZE_SUFFIXES = "KMGTP";

/** Bytes for "10G", "1.5TiB", "4096"; undefined unless it is a whole, safe number of bytes. */
export function parseSize(text: string): number | undefined {
  const match = SIZE_PATTERN.exec(text.trim());
  if (!match) return undefined;
  const exponent = match[3] === undefined ? 0 : SIZE_SUFFIXES.indexOf(match[3].toUpperCase()) + 1;
  const bytes = Number(`${match[1]}.${match[2] ?? "0"}`) * 1024 ** exponent;
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** "100 GiB", "4.0 GiB", "512 B": three digits that matter, for people; programs get bytes. */
export function formatSize(bytes: number): string {
  let value = bytes;
  let unit = 0;
  // 1023.95 would be rounded to "1024.0".
  while (Math.abs(value) >= 1023.95 && unit < SIZE_UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || Math.abs(value) >= 99.95 ? 0 : 1;
  return `${value.toFixed(digits)} ${SIZE_UNITS[unit]}`;
}

/** The shortest spelling that `parseSize` reads back as the same number: "10G", "1536M", "1000". */
export function spellSize(bytes: number): string {
  for (let exponent = SIZE_SUFFIXES.length; exponent > 0; exponent -= 1) {
    const unit = 1024 ** exponent;
    if (bytes >= unit && bytes % unit === 0) return `${bytes / unit}${SIZE_SUFFIXES[exponent - 1]}`;
  }
  return String(bytes);
}

const DURATION_UNITS = [
  ["w", 604_800_000_000],
  ["d", 86_400_000_000],
  ["h", 3_600_000_000],
  ["m", 60_000_000],
  ["s", 1_000_000],
  ["ms", 1000],
] as const;
// Each unit at most once, and the large ones first: "1m1m" and "5m1h" are slips of the keyboard.
const DURATION_PATTERN = new RegExp(
  `^(?=.)${DURATION_UNITS.map(([unit]) => `(?:(\\d{1,12}(?:\\.\\d{1,6})?)${unit})?`).join("")}$`,
);

/** Microseconds for "250ms", "10s", "1.5h", "1h30m", "2w"; undefined beyond what is safe, some 285 years. */
export function parseDurationMicros(text: string): number | undefined {
  const match = DURATION_PATTERN.exec(text.trim());
  if (!match) return undefined;
  const micros = DURATION_UNITS.reduce(
    (sum, [, unitMicros], index) => sum + Math.round(Number(match[index + 1] ?? 0) * unitMicros),
    0,
  );
  return Number.isSafeInteger(micros) ? micros : undefined;
}

/** The same in whole milliseconds. */
export function parseDurationMs(text: string): number | undefined {
  const micros = parseDurationMicros(text);
  return micros === undefined ? undefined : Math.round(micros / 1000);
}

/** The spelling that `parseDurationMicros` reads back as the same number: "10m", "1h30m", "30d", "1.5s", "250ms". */
export function spellDuration(micros: number): string {
  if (micros > 0 && micros < 1_000_000) return `${micros / 1000}ms`;
  let text = "";
  let rest = micros;
  for (const [unit, unitMicros] of DURATION_UNITS) {
    // Nobody says 4w2d; seconds take what is left.
    if (unit === "w" || unit === "s" || unit === "ms" || rest < unitMicros) continue;
    text += `${Math.floor(rest / unitMicros)}${unit}`;
    rest %= unitMicros;
  }
  return rest > 0 || text === "" ? `${text}${rest / 1_000_000}s` : text;
}

/** "250 ms", "12 s", "3 min", "2 h 5 min", "9 d 4 h". */
export function formatDuration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 === 0 ? `${hours} h` : `${hours} h ${minutes % 60} min`;
  const days = Math.floor(hours / 24);
  return hours % 24 === 0 ? `${days} d` : `${days} d ${hours % 24} h`;
}

/** "2026-03-01T12:00:00.250Z"; six decimals where there are microseconds. */
export function formatTime(micros: number): string {
  const ms = Math.floor(micros / 1000);
  // biome-ignore lint/style/noRestrictedGlobals: spells a time, never asks for one
  const text = new Date(ms).toISOString();
  const rest = Math.floor(micros - ms * 1000);
  return rest === 0 ? text : `${text.slice(0, -1)}${String(rest).padStart(3, "0")}Z`;
}
