// SPDX-License-Identifier: Apache-2.0
//
// What one connection's export names mean. Clients ask for a name several times before they are served:
// INFO, SET_META_CONTEXT, then GO. "db@-10m" is another disk each time the catalog is asked, so a
// connection asks once and keeps to the answer: size, contexts and content are of one and the same moment.
// Names that mean the same disk whenever they are asked for aren't kept; a volume may be resized meanwhile.

import { StorageError } from "../base/errors.ts";
import type { ExportCatalog, FoundExport } from "./block-device.ts";

/** Relative names that one connection may ask about: it opens one export, so one is what it needs. */
export const RELATIVE_NAMES_MAX = 16;

export class FoundExports {
  readonly #catalog: ExportCatalog;
  readonly #relative = new Map<string, FoundExport>();

  constructor(catalog: ExportCatalog) {
    this.#catalog = catalog;
  }

  /** Throws what the catalog throws, and BUSY: forgetting a name instead would change what it means. */
  async find(name: string): Promise<FoundExport> {
    const known = this.#relative.get(name);
    if (known !== undefined) return known;
    const found = await this.#catalog.find(name);
    if (!found.isRelative) return found;
    if (this.#relative.size >= RELATIVE_NAMES_MAX) {
      throw new StorageError(
        "BUSY",
        `export ${JSON.stringify(name.slice(0, 80))}: not looked up: this connection has asked about ${RELATIVE_NAMES_MAX} relative moments`,
        { hint: `name a moment that stays ("${found.stableName}"), or connect again` },
      );
    }
    this.#relative.set(name, found);
    return found;
  }

  /** TLS has begun: what was said in plain text may have come from somebody else. */
  forget(): void {
    this.#relative.clear();
  }
}
