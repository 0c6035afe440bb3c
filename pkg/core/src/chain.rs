//! Errors in one line.

use std::error::Error;

/// An error and what caused it, from the outside in, in one line. Some errors hold their
/// cause's text already, or cite it: it is not said twice.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug)]
    struct Outer(&'static str, io::Error);

    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.1)
        }
    }

    #[test]
    fn no_cause_is_said_twice() {
        let cause = || io::Error::other("refused");
        assert_eq!(chain(&Outer("connect", cause())), "connect: refused");
        assert_eq!(
            chain(&Outer("connect: refused", cause())),
            "connect: refused"
        );
    }
}
