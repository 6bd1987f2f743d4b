// SPDX-License-Identifier: Apache-2.0
//
// The public door of the package: what a program may import from "varve". Everything else is inside and may
// change without notice. A pool can be opened in process (one process at a time: `openPool` takes its lock), or
// reached over NBD and the control socket of a running daemon.

export { ERRORS, type ErrorCode, type ErrorKind, hasCode, StorageError } from "./base/errors.ts";
export { type OpenedPool, openPool } from "./daemon/pool-opener.ts";
export { createClock } from "./host/node/clock.ts";
export { requestOverSocket } from "./host/node/http-client.ts";
export { createLogger } from "./host/node/logger.ts";
export { createRandom } from "./host/node/random.ts";
export { connectStream } from "./host/node/socket-connect.ts";
export { createZstd } from "./host/node/zstd.ts";
export type { Clock, Logger, Random, Zstd } from "./host/ports.ts";
export { ALLOCATION, type BlockDevice, type BlockRequest } from "./nbd/block-device.ts";
export { NbdClient } from "./nbd/client.ts";
export { DEFAULT_SETTINGS, Pool } from "./pool/pool.ts";
export type { PoolSettings, PoolStatistics, VolumeSummary } from "./pool/types.ts";
export { PromisedRequest } from "./volume/device-request.ts";
