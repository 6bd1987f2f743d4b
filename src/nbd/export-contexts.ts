// SPDX-License-Identifier: Apache-2.0
//
// The metadata contexts of one connection beyond base:allocation: which ones a client may have, and those that it has
// selected, from SET_META_CONTEXT until they are selected anew or the connection is gone.
//
//   LIST   what the export lists, by the client's wildcards, and whatever it asks for by its exact name
//   SET    each name is looked up once and opened; one that can't be had isn't in the answer (NBD, "Metadata querying":
//          the option doesn't fail for it), and the reason is a line in the log
//
// An open context may hold history, so that their number is bounded, and so is the work that names make which nothing
// comes of. A name may mean another disk when it is opened than when its contexts were selected: whoever opens it asks
// `isOfAnother` first.

import { StorageError } from "../base/errors.ts";
import type { FoundContext, FoundExport, OpenContext } from "./block-device.ts";
import { BASE_ALLOCATION } from "./constants.ts";
import { CONTEXT_COUNT_MAX } from "./negotiation.ts";

/** Lines in the log for one connection that asks for what it can't have. */
const REFUSALS_TOLD_MAX = 16;

export interface ExportContextsOptions {
  /** Whether the client may have what that export shows. */
  readonly isAllowed: (exportName: string) => boolean;
  /** A context couldn't be had. */
  readonly refused: (context: string, reason: string) => void;
}

export class ExportContexts {
  readonly #options: ExportContextsOptions;
  readonly #open = new Map<string, OpenContext>();
  #exportName = "";
  #diskId = "";
  #toldCount = 0;

  constructor(options: ExportContextsOptions) {
    this.#options = options;
  }

  /** Names that LIST_META_CONTEXT answers. */
  async list(found: FoundExport, queries: readonly string[]): Promise<string[]> {
    const isWanted = (name: string): boolean =>
      queries.length === 0 || queries.some((query) => isListedBy(name, query));
    const entries = found.contexts().filter(({ exportNames }) => this.#isAllowed(exportNames));
    const listed = [BASE_ALLOCATION, ...entries.map(({ name }) => name)].filter(isWanted);
    const unlisted = new Set(queries.filter((query) => !listed.includes(query)));
    let lookups = 0;
    for (const name of unlisted) {
      if (name.endsWith(":") || lookups >= CONTEXT_COUNT_MAX) continue;
      const context = await this.#find(found, name);
      if (context === undefined) continue;
      lookups += 1;
      if (!(context instanceof StorageError)) listed.push(name);
    }
    return listed;
  }

  /** Opens what is asked for by its exact name in place of all that was open; undefined: that is too much. */
  async select(
    exportName: string,
    found: FoundExport,
    queries: readonly string[],
  ): Promise<string[] | undefined> {
    this.close();
    this.#exportName = exportName;
    this.#diskId = found.diskId;
    const selected: string[] = [];
    let count = 0;
    for (const name of new Set(queries)) {
      const context = name === BASE_ALLOCATION ? "base" : await this.#find(found, name);
      if (context === undefined) continue;
      count += 1;
      if (count > CONTEXT_COUNT_MAX) {
        this.close();
        return undefined;
      }
      if (context === "base" || (await this.#opens(name, context))) selected.push(name);
    }
    return selected;
  }

  /** Open contexts of that export tell of another disk than the one its name means now. */
  isOfAnother(exportName: string, { diskId }: FoundExport): boolean {
    return this.#open.size > 0 && exportName === this.#exportName && diskId !== this.#diskId;
  }

  /** undefined: not open. */
  get(name: string): OpenContext | undefined {
    return this.#open.get(name);
  }

  /** Only these are needed from now on. */
  keep(names: readonly string[]): void {
    for (const [name, context] of this.#open) {
      if (names.includes(name)) continue;
      context.close();
      this.#open.delete(name);
    }
  }

  /** The client is gone; what is under way ends soon. */
  cancel(): void {
    for (const context of this.#open.values()) context.cancel();
  }

  close(): void {
    for (const context of this.#open.values()) context.close();
    this.#open.clear();
  }

  async #opens(name: string, context: FoundContext | StorageError): Promise<boolean> {
    const opened = context instanceof StorageError ? context : await orRefusal(context.open());
    if (opened instanceof StorageError) this.#tell(name, opened.message);
    else this.#open.set(name, opened as OpenContext);
    return !(opened instanceof StorageError);
  }

  /** undefined: there is none of that kind. */
  async #find(found: FoundExport, name: string): Promise<FoundContext | StorageError | undefined> {
    const context = await orRefusal(found.findContext(name));
    if (context === undefined || context instanceof StorageError) return context;
    if (this.#isAllowed(context.exportNames)) return context;
    const where = context.exportNames.join(", ");
    return new StorageError("ACCESS_DENIED", `the access list of one of ${where} doesn't name it`);
  }

  #isAllowed(exportNames: readonly string[]): boolean {
    return exportNames.every((name) => this.#options.isAllowed(name));
  }

  #tell(context: string, reason: string): void {
    this.#toldCount += 1;
    if (this.#toldCount <= REFUSALS_TOLD_MAX) this.#options.refused(context, reason);
  }
}

/** A query that ends in a colon is a wildcard for what begins with it. */
function isListedBy(contextName: string, query: string): boolean {
  return query === contextName || (query.endsWith(":") && contextName.startsWith(query));
}

async function orRefusal<T>(answer: Promise<T>): Promise<T | StorageError> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof StorageError) return error;
    throw error;
  }
}
