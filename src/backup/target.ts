// SPDX-License-Identifier: Apache-2.0
//
// A backup target that is open: its store, its key, its catalog. Making one puts the descriptor if there is none; of two
// makers one wins and the other goes on with what it finds, so a backup may always begin by making its target.

import { StorageError } from "../base/errors.ts";
import type { ObjectStore } from "../host/object-store.ts";
import {
  DESCRIPTOR_NAME,
  type Descriptor,
  encodeDescriptor,
  ID_BYTES,
  readDescriptor,
} from "./descriptor.ts";
import { KeySealer, PLAIN_SEALER, type Sealer } from "./sealing.ts";
import { TargetCatalog, type TargetHost } from "./target-catalog.ts";
import { type TargetKey, unwrapKey, wrapNewKey, wrongKey } from "./target-key.ts";

export interface Target extends TargetHost {
  readonly store: ObjectStore;
  readonly descriptor: Descriptor;
  readonly sealer: Sealer;
  readonly catalog: TargetCatalog;
}

export interface TargetOptions extends TargetHost {
  readonly store: ObjectStore;
  /** Of an encrypted target. */
  readonly key?: TargetKey | undefined;
}

/** Throws TARGET_NOT_FOUND, TARGET_KEY_WRONG, TARGET_CORRUPT, NOT_A_TARGET, FORMAT_UNSUPPORTED, TARGET_UNAVAILABLE. */
export async function openTarget(options: TargetOptions): Promise<Target> {
  const descriptor = await readDescriptor(options.store);
  if (descriptor !== undefined) return openWith(descriptor, options);
  const why = `it has no ${DESCRIPTOR_NAME}`;
  throw new StorageError("TARGET_NOT_FOUND", `target "${options.store.label}": not found: ${why}`);
}

/**
 * Opens the target, and makes it where there is none and nothing else either: encrypted, if there is a key. Throws as
 * openTarget, and TARGET_FULL.
 */
export async function openOrMakeTarget(options: TargetOptions): Promise<Target> {
  const { store, key, clock, random } = options;
  const found = await readDescriptor(store);
  if (found !== undefined) return openWith(found, options);
  await refuseForeign(store);
  const id = new Uint8Array(ID_BYTES);
  random.fill(id);
  const repositoryId = Buffer.from(id).toString("hex");
  const encryption = key === undefined ? "none" : wrapNewKey(key, { repositoryId, random });
  const made = { repositoryId, createdMicros: clock.wallMicros(), encryption } as const;
  await store.putIfAbsent(DESCRIPTOR_NAME, [encodeDescriptor(made)]);
  return openTarget(options);
}

/** A target is made of an empty place: what is there already belongs to somebody, and would be in his way. */
async function refuseForeign(store: ObjectStore): Promise<void> {
  for await (const { name } of store.list("")) {
    // Somebody else may have been quicker.
    if ((await store.sizeOf(DESCRIPTOR_NAME)) !== undefined) return;
    const what = `target "${store.label}": not made: it holds other things ("${name}")`;
    throw new StorageError("NOT_A_TARGET", what);
  }
}

async function openWith(descriptor: Descriptor, options: TargetOptions): Promise<Target> {
  const { store, clock, random } = options;
  const sealer = sealerOf(descriptor, options.key);
  const catalog = await TargetCatalog.open({ store, sealer, clock, random });
  return { store, clock, random, descriptor, sealer, catalog };
}

function sealerOf({ repositoryId, encryption }: Descriptor, key: TargetKey | undefined): Sealer {
  if (encryption === "none") {
    if (key === undefined) return PLAIN_SEALER;
    throw wrongKey("it isn't encrypted, and a key was given");
  }
  if (key === undefined) throw wrongKey(`it is encrypted with a ${encryption.from}`);
  return new KeySealer(unwrapKey(key, { repositoryId, wrapped: encryption }));
}
