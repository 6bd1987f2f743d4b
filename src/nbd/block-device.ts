// SPDX-License-Identifier: Apache-2.0
//
// What the NBD door needs of a disk. The door owns this interface; a volume or a view implements it,
// and the daemon connects the two.
//
// The data path has no promise, closure, BigInt or Buffer slice per request. A request is a pooled
// object of the session, all payloads live in one slab of shared memory, and an address is a plain byte
// offset into it. Who owns the bytes:
//
//   readNow    the device fills them before it returns true; false means nothing was touched
//   read       they belong to the device from the call until complete()
//   writeNow   the device has copied them before it returns true, and the request then ends with
//              complete() as ever (later, or inside the call); false means it took nothing, complete()
//              isn't called, and the session calls write() once it has moved them to a place that can wait
//   write      they belong to the device from the call until complete()
//
// The door has checked every request against `sizeBytes` and `isReadOnly` before the device sees it.
// Requests take effect in the order of the calls as far as they overlap; completions come in any order,
// also from inside the call itself.

/** A request on its way through a device. Implemented by the session, pooled and reused. */
export interface BlockRequest {
  /** Start in bytes, any multiple of 1. */
  readonly offsetBytes: number;
  /** Length in bytes; up to the whole device for trim, writeZeroes, blockStatus and cache. */
  readonly lengthBytes: number;
  /** Where the payload is, or goes: a byte offset into the slab. */
  readonly address: number;
  /** The reply waits until this request is on stable storage. */
  readonly isForceUnitAccess: boolean;
  /** Ends the request. 0, or one of NBD_ERROR. The session may reuse the object at once. */
  complete(errno: number): void;
}

/** Receives the extents of a block-status answer in ascending, contiguous order. */
export interface ExtentSink {
  /** `flags` as the metadata context defines them; false: enough, send no more. */
  add(lengthBytes: number, flags: number): boolean;
}

/** base:allocation (NBD protocol, "base" namespace). */
export const ALLOCATION = { HOLE: 1, ZERO: 2 } as const;

/** Answers block status for one metadata context. */
export interface StatusSource {
  /** Extents in the request's range go to `sink`, then complete(). They may end before the range does. */
  blockStatus(request: BlockRequest, sink: ExtentSink): void;
}

/** What write zeroes may do. */
export interface ZeroOptions {
  /** NO_HOLE: the range must stay allocated. */
  readonly isHoleForbidden: boolean;
}

/** As a source of block status it answers base:allocation. */
export interface BlockDevice extends StatusSource {
  readonly sizeBytes: number;
  readonly isReadOnly: boolean;
  /** A flush on one connection covers completed writes of all. */
  readonly canMultiConnect: boolean;

  /** Reads what is in memory; true is success, there is no complete(). False says nothing about why. */
  readNow(offsetBytes: number, lengthBytes: number, address: number): boolean;
  read(request: BlockRequest): void;
  /** Takes a copy of the payload at once if it can; the reply is sent when the request completes. */
  writeNow(request: BlockRequest): boolean;
  write(request: BlockRequest): void;
  flush(request: BlockRequest): void;
  trim(request: BlockRequest): void;
  /** Always fast: one record, whatever the length (so FAST_ZERO always succeeds). */
  writeZeroes(request: BlockRequest, options: ZeroOptions): void;
  /** Loads the range into the cache, as far as it is worth it. */
  cache(request: BlockRequest): void;
}

/** A metadata context beyond base:allocation, opened for one connection. */
export interface OpenContext extends StatusSource {
  /** Nobody waits for answers any more: what is still asked is completed soon, in whatever way. */
  cancel(): void;
  /** Once, when nothing that was asked is under way. */
  close(): void;
}

/** What the name of a metadata context means on one export. It holds nothing. */
export interface FoundContext {
  /** What it tells of could be read there: each of these exports has to let the client in too. */
  readonly exportNames: readonly string[];
  open(): Promise<OpenContext>;
}

/** A metadata context as a list shows it. */
export interface ContextEntry {
  readonly name: string;
  /** As in FoundContext. */
  readonly exportNames: readonly string[];
}

/** Memory that sockets, files and the block kernel all reach. Pages are allocated once and pooled. */
export interface Slab {
  /** All of it; `address` is an index into this array. */
  readonly bytes: Uint8Array;
  /**
   * `lengthBytes` (up to MAX_SLAB_PIECE_BYTES) in one piece, aligned to 4096, or -1 when the share that
   * clients may use is exhausted (then wait for a release).
   */
  allocate(lengthBytes: number): number;
  release(address: number): void;
}

/** The largest piece of slab a session may hold for one request; larger requests are done in pieces. */
export const MAX_SLAB_PIECE_BYTES: number = 1 << 20;

/** An export as LIST and INFO show it. */
export interface ExportEntry {
  readonly name: string;
  readonly description: string;
}

/** Who is connecting, for access lists and logs. */
export interface ClientIdentity {
  /** "127.0.0.1:5123", or "unix:1000" with the peer's uid where it is known. */
  readonly address: string;
  readonly unixUid?: number;
  /** Subject common name of a verified client certificate. */
  readonly certificateName?: string;
  /** Identity of the pre-shared key. */
  readonly pskIdentity?: string;
}

/** A client that opens an export. */
export interface Visitor {
  readonly identity: ClientIdentity;
  /** Ends its connection, with a line in the log; the export is closed when all that is in flight is done. */
  readonly hangUp: (reason: string) => void;
}

/** An export opened for one connection. */
export interface OpenExport {
  readonly device: BlockDevice;
  /** What hooks are told: the name that stays true (db@#123 for db@-10m, and for db@v1). */
  readonly stableName: string;
  readonly canonicalName: string;
  readonly description: string;
  /** Called once when the connection ends, for whatever reason. */
  close(): void;
}

/** What a client may know of an export. */
export interface ExportDescription {
  readonly sizeBytes: number;
  readonly isReadOnly: boolean;
  readonly canMultiConnect: boolean;
  /**
   * What NBD_INFO_NAME answers: the stable name where the one that was asked for is relative. What is listed keeps its
   * name: clients that show a list show this.
   */
  readonly canonicalName: string;
  readonly description: string;
}

/** What a name means. It holds nothing: whoever doesn't open it just drops it. */
export interface FoundExport {
  readonly stableName: string;
  /** The same for one disk, however it is called and whenever it is looked up; another disk has another one. */
  readonly diskId: string;
  /** The name means another disk each time it is asked for ("db@-10m"). */
  readonly isRelative: boolean;
  /** Other names that access lists may know this disk by: each of them has to let the client in too. */
  readonly otherNames: readonly string[];
  /** What an open would give, without opening. Throws as open() does. */
  describe(): ExportDescription;
  /** Metadata contexts beyond base:allocation that a list shows; there may be more of them. */
  contexts(): readonly ContextEntry[];
  /** undefined: it has none of that kind. Throws StorageError where there could be one, but it can't be had. */
  findContext(name: string): Promise<FoundContext | undefined>;
  open(visitor: Visitor): Promise<OpenExport>;
}

/** The door's view of the pool: names to devices. Throws StorageError (EXPORT_NOT_FOUND, BUSY …). */
export interface ExportCatalog {
  list(client: ClientIdentity): Promise<readonly ExportEntry[]>;
  find(name: string): Promise<FoundExport>;
}
