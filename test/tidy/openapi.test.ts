// SPDX-License-Identifier: Apache-2.0
//
// docs/openapi.json is what the daemon serves as /openapi.json (UPDATE=1 rewrites it): for those who make
// clients from it without a daemon at hand.

import { equal } from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { REPOSITORY } from "../../scripts/source-files.ts";
import { openApiDocument } from "../../src/api/openapi.ts";
import { productVersion } from "../../src/host/node/product.ts";

test("docs/openapi.json is what the tables say", () => {
  const path = join(REPOSITORY, "docs", "openapi.json");
  const wanted = `${JSON.stringify(openApiDocument(productVersion()), null, 2)}\n`;
  if (process.env.UPDATE === "1") writeFileSync(path, wanted);
  equal(
    readFileSync(path, "utf8"),
    wanted,
    "docs/openapi.json is stale: run npm test with UPDATE=1",
  );
});
