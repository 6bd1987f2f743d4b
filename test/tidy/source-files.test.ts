// SPDX-License-Identifier: Apache-2.0
//
// The scanner that all other tidy tests rely on sees code, and only code.

import { deepEqual, equal } from "node:assert/strict";
import { test } from "node:test";
import { blankLiterals, importsOf, type SourceFile } from "../../scripts/source-files.ts";

function file(text: string): SourceFile {
  return { path: "src/x.ts", text, code: blankLiterals(text) };
}

test("comments, strings and patterns are blanked, lines and lengths stay", () => {
  const text = "a(\"Date\"); // Date\nb(/Da\"te/, 1 / 2); /* Date\n*/ c('\\'Date'); d / Date;";
  const code = blankLiterals(text);
  equal(code.length, text.length);
  equal(code.split("\n").length, 3);
  deepEqual([...code.matchAll(/Date/g)].length, 1);
  equal(code.endsWith("d / Date;"), true);
});

test("what stands in the braces of a template is code, what stands around it is not", () => {
  const code = blankLiterals(
    "x(`Date $" + "{ Date.now({ a: `in $" + "{ Date }` }) } Date`, Date);",
  );
  deepEqual([...code.matchAll(/Date/g)].length, 3);
});

test("static, dynamic and re-exporting imports are found, those in comments are not", () => {
  const found = importsOf(
    file(
      'import { a } from "./a.ts";\n// import "./no.ts"\nexport * from "./b.ts";\n' +
        'const c = await import("./c.ts");\nimport "./d.ts";\nimport {\n  e,\n} from "./e.ts";\n',
    ),
  );
  deepEqual(
    found.map(({ specifier, line }) => `${specifier}:${line}`),
    ["./a.ts:1", "./b.ts:3", "./c.ts:4", "./d.ts:5", "./e.ts:8"],
  );
});
