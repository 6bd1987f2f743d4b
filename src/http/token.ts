// SPDX-License-Identifier: Apache-2.0
//
// The bearer token of the control door over TCP. The comparison takes the same time wherever the first
// wrong character is, so that a token can't be guessed one character after another.

export function hasToken(header: string | undefined, token: string): boolean {
  const given = /^Bearer (.+)$/i.exec(header ?? "")?.[1] ?? "";
  let difference = given.length ^ token.length;
  for (let i = 0; i < token.length; i += 1) {
    // Beyond the end charCodeAt is NaN, which the bit operation takes as 0.
    difference |= token.charCodeAt(i) ^ given.charCodeAt(i);
  }
  return difference === 0;
}
