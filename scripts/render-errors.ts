// SPDX-License-Identifier: Apache-2.0
//
// Renders the error table (src/base/errors.ts) as docs/errors.md, for operators who meet a code in a
// log and for programs that match on it. It is a file of its own so that the tidy test can compare the
// document with what it should be; UPDATE=1 makes that test rewrite it.

import { ERRORS, type ErrorCode, type ErrorKind, NBD_ERROR, spell } from "../src/base/errors.ts";

const KIND_ADVICE: Readonly<Record<ErrorKind, string>> = {
  invalid: "fix the request",
  not_found: "name something that exists",
  conflict: "it exists already, is busy, or is not yours",
  full: "free or add space",
  unavailable: "retry later",
  corrupt: "stop, check, restore",
  internal: "report a bug",
};

const NBD_NAMES = new Map<number, string>(
  Object.entries(NBD_ERROR).map(([name, value]) => [value, name]),
);

export function renderErrors(): string {
  const codes = Object.keys(ERRORS) as ErrorCode[];
  const rows = codes.map((code) => {
    const { kind, hint } = ERRORS[code];
    const nbd = NBD_NAMES.get(spell(code, "nbd")) ?? String(spell(code, "nbd"));
    const cells = [`\`${code}\``, kind, nbd, spell(code, "http"), spell(code, "exit"), hint];
    return `| ${cells.join(" | ")} |`;
  });
  const kinds = Object.entries(KIND_ADVICE).map(([kind, advice]) => `- **${kind}**: ${advice}`);
  return `# Errors

Generated from \`src/base/errors.ts\`; don't edit. Match on the code, never on the text. The same code
is spelled as an NBD error number, an HTTP status and an exit code, depending on the door.

${kinds.join("\n")}

| code | kind | NBD | HTTP | exit | what to do |
|---|---|---|---|---|---|
${rows.join("\n")}
`;
}
