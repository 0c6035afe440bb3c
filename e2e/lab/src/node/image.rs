//! What an image stands for in the lab: a program on this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The last path component of an image reference, without tag and digest:
/// `ghcr.io/herald-lb/herald-speaker:v0.1.0@sha256:…` is `herald-speaker`.
pub(super) fn name(reference: &str) -> &str {
    let untagged = reference.split('@').next().unwrap_or(reference);
    let last = untagged.rsplit('/').next().unwrap_or(untagged);
    last.split(':').next().unwrap_or(last)
}

/// The program that stands for an image; an error for the person who wrote the
/// manifest.
pub(super) fn program<'a>(
    images: &'a BTreeMap<String, PathBuf>,
    reference: &str,
) -> Result<&'a Path, String> {
    let name = name(reference);
    let Some(program) = images.get(name) else {
        let known: Vec<&str> = images.keys().map(String::as_str).collect();
        return Err(format!(
            "the lab has no program for image {reference:?}: start it with \
             --image {name}=PROGRAM (known are {})",
            known.join(", ")
        ));
    };
    if !program.is_file() {
        return Err(format!(
            "{}, which stands for image {reference:?}, does not exist; build it first",
            program.display()
        ));
    }
    Ok(program)
}

/// What a container runs: the image's program, or its `command`. A command
/// that names the image's program means that program, wherever the real image
/// has it; any other is looked up on this machine.
pub(super) fn entry_point(
    program: &Path,
    image: &str,
    command: &[String],
) -> (PathBuf, Vec<String>) {
    let [first, rest @ ..] = command else {
        return (program.to_owned(), Vec::new());
    };
    let last = Path::new(first).file_name();
    let meant = last == program.file_name() || last == Some(name(image).as_ref());
    let chosen = if meant { program } else { Path::new(first) };
    (chosen.to_owned(), rest.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_its_last_component() {
        for reference in [
            "echo",
            "echo:v1",
            "registry:5000/echo",
            "registry:5000/team/echo:v1",
            "ghcr.io/team/echo:v1@sha256:abcd",
            "ghcr.io/team/echo@sha256:abcd",
        ] {
            assert_eq!(name(reference), "echo", "{reference}");
        }
    }

    #[test]
    fn an_unknown_image_says_how_to_make_it_known() {
        let images = BTreeMap::from([("echo".to_owned(), PathBuf::from("/bin/sh"))]);
        assert_eq!(program(&images, "x/echo:1"), Ok(Path::new("/bin/sh")));
        let error = program(&images, "nginx:1.27").unwrap_err();
        assert!(error.contains("--image nginx=PROGRAM"), "{error}");
        let gone = BTreeMap::from([("echo".to_owned(), PathBuf::from("/no/such/echo"))]);
        assert!(program(&gone, "echo").unwrap_err().contains("build it"));
    }

    #[test]
    fn a_command_may_name_the_program_or_another() {
        let program = Path::new("/build/herald-speaker");
        let command = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            entry_point(program, "ghcr.io/x/herald-speaker:v1", &words)
        };
        assert_eq!(command(&[]).0, program);
        assert_eq!(
            command(&["/herald-speaker", "--debug"]),
            (program.to_owned(), vec!["--debug".to_owned()])
        );
        assert_eq!(command(&["sleep", "1"]).0, Path::new("sleep"));
    }
}
