// Makes a component from a handler: node build.mjs SOURCE WIT OUTPUT

import { writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const [sourcePath, witPath, output] = process.argv.slice(2);
// Disables `fetch`: requests must go through the contract's imports, because only there the host controls them.
const disableFeatures = ['http', 'fetch-event'];
const { component } = await componentize({ sourcePath, witPath, worldName: 'guest', disableFeatures });
await writeFile(output, component);
