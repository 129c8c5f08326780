//! The agent of an earlier commit, built beside this one's.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    agent,
    process::{repository_root, run, succeeds, target_directory},
};

/// Builds it, in a tree of its own that goes again, unless it is a program already. Gives its program.
pub(super) fn build(revision: &str) -> Result<PathBuf> {
    if Path::new(revision).is_file() {
        return Ok(revision.into());
    }
    let root = repository_root()?;
    let ground = target_directory(&root)?.join("soak");
    let tree = Tree::check_out(&root, ground.join("tree"), revision)?;
    agent::build(
        &tree.path,
        &ground.join("target"),
        "read the compiler's message above; `--upgrade-from` takes another revision",
    )
}

/// A working tree of git's beside this one.
struct Tree {
    root: PathBuf,
    path: PathBuf,
}

impl Tree {
    fn check_out(root: &Path, path: PathBuf, revision: &str) -> Result<Self> {
        let tree = Self {
            root: root.to_owned(),
            path,
        };
        // One that was left behind.
        tree.remove();
        let mut add = tree.git();
        add.args(["worktree", "add", "--force", "--detach"])
            .arg(&tree.path)
            .arg(revision);
        run(&mut add, "name a commit that this clone has")?;
        Ok(tree)
    }

    fn git(&self) -> Command {
        let mut git = Command::new("git");
        git.current_dir(&self.root);
        git
    }

    fn remove(&self) {
        let mut remove = self.git();
        remove
            .args(["worktree", "remove", "--force"])
            .arg(&self.path);
        // There may be none.
        succeeds(&mut remove);
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.remove();
    }
}
