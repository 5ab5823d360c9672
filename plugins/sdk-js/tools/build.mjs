// Makes a component of a handler: node build.mjs SOURCE WIT OUTPUT

import { writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const [sourcePath, witPath, output] = process.argv.slice(2);
// Requests go through the contract's imports, where the host sees them; `fetch` would be a second way.
const disableFeatures = ['http', 'fetch-event'];
const { component } = await componentize({ sourcePath, witPath, worldName: 'guest', disableFeatures });
await writeFile(output, component);
