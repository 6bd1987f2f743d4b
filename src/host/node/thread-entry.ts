// SPDX-License-Identifier: Apache-2.0
//
// Where a thread begins: imports the module that it is for, and runs that with what it was given. So what threads do
// is written without a word about threads of this runtime.

import { workerData } from "node:worker_threads";

const { module, data } = workerData as { readonly module: string; readonly data: unknown };
const { run } = (await import(module)) as { readonly run: (data: unknown) => void };
run(data);
