// A guestbook: entries with a picture, a page for each with its comments. It
// listens on PORT and keeps everything in DATA_DIR.
import { randomUUID } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { unlink } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import express from 'express';
import multer from 'multer';
import { ValidationError } from 'sequelize';

import { openDatabase } from './models.js';

const port = process.env.PORT ?? 3000;
const data = path.resolve(process.env.DATA_DIR ?? 'data');
const pictures = path.join(data, 'pictures');
const pictureTypes = { 'image/png': '.png', 'image/jpeg': '.jpg', 'image/gif': '.gif', 'image/webp': '.webp' };

mkdirSync(pictures, { recursive: true });
const { database, Entry, Comment } = openDatabase(path.join(data, 'guestbook.sqlite3'));
await database.sync();

const upload = multer({
  storage: multer.diskStorage({
    destination: pictures,
    filename: (req, file, done) => done(null, randomUUID() + pictureTypes[file.mimetype]),
  }),
  fileFilter: (req, file, done) => done(null, file.mimetype in pictureTypes),
  limits: { fileSize: 5 << 20 },
});

const app = express();
app.set('view engine', 'ejs');
app.set('views', fileURLToPath(new URL('views', import.meta.url)));
app.use('/pictures', express.static(pictures, { immutable: true, maxAge: '1y' }));

app.get('/', async (req, res) => {
  const entries = await Entry.findAll({ include: Comment, order: [['id', 'DESC']], limit: 50 });
  res.render('entries', { entries });
});

app.post('/entries', upload.single('picture'), async (req, res) => {
  try {
    const { author, text } = req.body ?? {};
    const entry = await Entry.create({ author, text, picture: req.file?.filename });
    res.redirect(303, `/entries/${entry.id}`);
  } catch (err) {
    if (req.file) await unlink(req.file.path);
    throw err;
  }
});

app.get('/entries/:id', async (req, res) => {
  const entry = await Entry.findByPk(req.params.id, { include: Comment });
  if (!entry) return res.status(404).send('There is no such entry.');
  res.render('entry', { entry });
});

app.post('/entries/:id/comments', express.urlencoded({ extended: false }), async (req, res) => {
  const entry = await Entry.findByPk(req.params.id);
  if (!entry) return res.status(404).send('There is no such entry.');
  const { author, text } = req.body ?? {};
  await entry.createComment({ author, text });
  res.redirect(303, `/entries/${entry.id}`);
});

app.post('/entries/:id/delete', async (req, res) => {
  const entry = await Entry.findByPk(req.params.id);
  if (!entry) return res.status(404).send('There is no such entry.');
  await entry.destroy();
  if (entry.picture) await unlink(path.join(pictures, entry.picture));
  res.redirect(303, '/');
});

app.get('/health', (req, res) => res.send('ok'));

app.use((err, req, res, next) => {
  const wrong = err instanceof ValidationError || err instanceof multer.MulterError;
  if (!wrong) console.error(err);
  res.status(wrong ? 400 : 500).send(wrong ? err.message : 'Something went wrong.');
});

const server = app.listen(port, () => console.log(`guestbook: port ${port}, data in ${data}`));
process.on('SIGTERM', () => {
  server.close(() => database.close());
  server.closeIdleConnections();
});
