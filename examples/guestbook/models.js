// The tables of the guestbook.
import { DataTypes, Sequelize } from 'sequelize';

export function openDatabase(path) {
  const database = new Sequelize({ dialect: 'sqlite', storage: path, logging: false });

  const Entry = database.define('entry', {
    author: { type: DataTypes.STRING, allowNull: false, validate: { len: [1, 80] } },
    text: { type: DataTypes.TEXT, allowNull: false, validate: { len: [1, 4000] } },
    picture: DataTypes.STRING, // a file's name in the folder of pictures
  });
  const Comment = database.define('comment', {
    author: { type: DataTypes.STRING, allowNull: false, validate: { len: [1, 80] } },
    text: { type: DataTypes.TEXT, allowNull: false, validate: { len: [1, 4000] } },
  });
  Entry.hasMany(Comment, { foreignKey: { allowNull: false }, onDelete: 'CASCADE' });
  Comment.belongsTo(Entry);

  return { database, Entry, Comment };
}
