// SPDX-License-Identifier: Apache-2.0
//
// Times as RFC 3339 writes them, at any precision from a day to a microsecond, into microseconds since 1970. What is
// left out is zero: a day or a minute means its first instant. Digits beyond microseconds are cut, so that a time that
// was printed longer never means a later record than the one it stands beside. UTC unless there is an offset. The
// letters may be small, and a space may stand for the T.
//
// Days that no calendar has are refused, not carried into the next month. So is second 60: clocks don't show it.

/** Times end where microseconds aren't safe numbers any more, in 2255. */
const YEAR_MIN = 1970;
const YEAR_MAX = 2254;
const DAY_MICROS = 86_400_000_000;
const END_MICROS = daysBefore(YEAR_MAX + 1, 1) * DAY_MICROS;

const DATE = /^(\d{4})-(\d{2})-(\d{2})/;
const CLOCK = /^[Tt ](\d{2}):(\d{2})(?::(\d{2})(?:\.(\d+))?)?/;
const OFFSET = /^([+-])(\d{2}):(\d{2})$/;

/** Whether the text can be meant as a time, right or wrong: nothing else begins like this. */
export function looksLikeTime(text: string): boolean {
  return /^\d{4}-/.test(text);
}

/** Microseconds since 1970, or a sentence that says what is wrong. */
export function parseTime(text: string): number | string {
  const date = DATE.exec(text);
  if (!date) return "a day is written 2026-03-01";
  const [year, month, day] = date.slice(1).map(Number) as [number, number, number];
  const dateProblem = problemOfDate(year, month, day);
  if (dateProblem !== undefined) return dateProblem;
  const dayMicros = (daysBefore(year, month) + day - 1) * DAY_MICROS;
  const clockText = text.slice(date[0].length);
  if (clockText === "") return dayMicros;

  const clock = CLOCK.exec(clockText);
  if (!clock) return "after the day comes a time like T12:00, T12:00:00 or T12:00:00.250";
  const [hour, minute, second] = [clock[1], clock[2], clock[3] ?? 0].map(Number) as [
    number,
    number,
    number,
  ];
  const clockProblem = problemOfClock(hour, minute, second);
  if (clockProblem !== undefined) return clockProblem;
  const fractionMicros = Number((clock[4] ?? "").slice(0, 6).padEnd(6, "0"));
  const offsetMinutes = parseOffset(clockText.slice(clock[0].length));
  if (typeof offsetMinutes === "string") return offsetMinutes;
  const minutes = hour * 60 + minute - offsetMinutes;
  const micros = dayMicros + (minutes * 60 + second) * 1_000_000 + fractionMicros;
  return micros >= 0 && micros < END_MICROS ? micros : outOfRange();
}

/** Minutes that local clocks are ahead of UTC. */
function parseOffset(text: string): number | string {
  if (text === "" || text === "Z" || text === "z") return 0;
  const match = OFFSET.exec(text);
  if (!match) return "after the time comes Z, an offset like +02:00, or nothing, which is UTC";
  const [hours, minutes] = [Number(match[2]), Number(match[3])];
  if (hours > 23 || minutes > 59) return "an offset is at most 23:59";
  const ahead = hours * 60 + minutes;
  return match[1] === "-" ? -ahead : ahead;
}

function problemOfDate(year: number, month: number, day: number): string | undefined {
  if (year < YEAR_MIN || year > YEAR_MAX) return outOfRange();
  if (month < 1 || month > 12) return "months go from 01 to 12";
  const dayCount = daysOf(year, month);
  if (day >= 1 && day <= dayCount) return undefined;
  return `days of ${year}-${String(month).padStart(2, "0")} go from 01 to ${dayCount}`;
}

function problemOfClock(hour: number, minute: number, second: number): string | undefined {
  if (hour > 23) return "hours go from 00 to 23";
  if (minute > 59) return "minutes go from 00 to 59";
  return second > 59 ? "seconds go from 00 to 59" : undefined;
}

function daysOf(year: number, month: number): number {
  if (month !== 2) return [4, 6, 9, 11].includes(month) ? 30 : 31;
  return year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0) ? 29 : 28;
}

/** Days from 1970 to the first of the month. */
function daysBefore(year: number, month: number): number {
  let days = 365 * (year - 1970) + leapDaysBefore(year) - leapDaysBefore(1970);
  for (let earlier = 1; earlier < month; earlier++) days += daysOf(year, earlier);
  return days;
}

function leapDaysBefore(year: number): number {
  const years = year - 1;
  return Math.floor(years / 4) - Math.floor(years / 100) + Math.floor(years / 400);
}

function outOfRange(): string {
  return `times go from ${YEAR_MIN} to ${YEAR_MAX}`;
}
