//! `[local]`: where programs on the board may ask besides the control socket, and who.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, read};
use crate::local::{Listen, Token};

/// Who may open a Unix socket without any configuration: the daemon's user and the socket's group.
const USUAL_MODE: u32 = 0o660;
/// A shorter token could be guessed.
const SHORTEST_TOKEN: usize = 16;

/// Where programs on the board may ask besides the control socket.
#[derive(Debug, Clone, Default)]
pub struct Local {
    /// The socket, if there is to be one.
    pub listen: Option<Listen>,
    /// What callers have to show there.
    pub token: Option<Token>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LocalSection {
    /// `ADDRESS:PORT` or `unix:PATH`.
    listen: Option<String>,
    /// As for `chmod`, in octal digits.
    mode: Option<String>,
    group: Option<String>,
    token_file: Option<PathBuf>,
}

impl Local {
    /// For people who check their configuration; empty where there is nothing to say.
    #[must_use]
    pub fn describe(&self) -> String {
        let token = match self.token {
            Some(_) => "with a token",
            None => "without a token",
        };
        match &self.listen {
            None => String::new(),
            Some(Listen::Tcp(address)) => format!(", local API on {address} {token}"),
            Some(Listen::Unix { path, mode, .. }) => {
                format!(", local API on {} (mode {mode:o}) {token}", path.display())
            }
        }
    }
}

impl LocalSection {
    pub(super) fn checked(self) -> Result<Local, ConfigError> {
        let token = self.token()?;
        let Some(listen) = &self.listen else {
            for (key, is_given) in [
                ("local.mode", self.mode.is_some()),
                ("local.group", self.group.is_some()),
                ("local.token_file", self.token_file.is_some()),
            ] {
                if is_given {
                    return Err(wrong(key, "given", "of any use without local.listen"));
                }
            }
            return Ok(Local::default());
        };
        let listen = match listen.strip_prefix("unix:") {
            Some(path) => self.unix(path)?,
            None => self.tcp(listen, token.is_some())?,
        };
        Ok(Local {
            listen: Some(listen),
            token,
        })
    }

    fn unix(&self, path: &str) -> Result<Listen, ConfigError> {
        let path = PathBuf::from(path);
        if !path.is_absolute() {
            let value = path.display().to_string();
            return Err(wrong("local.listen", &value, "unix: and an absolute path"));
        }
        let mode = match &self.mode {
            None => USUAL_MODE,
            Some(digits) => u32::from_str_radix(digits, 8)
                .ok()
                .filter(|mode| *mode <= 0o777)
                .ok_or_else(|| wrong("local.mode", digits, "octal digits such as \"0660\""))?,
        };
        Ok(Listen::Unix {
            path,
            mode,
            group: self.group.clone(),
        })
    }

    fn tcp(&self, listen: &str, has_token: bool) -> Result<Listen, ConfigError> {
        let expected = "ADDRESS:PORT, such as 127.0.0.1:8080, or unix: and a path";
        let address: SocketAddr = listen
            .parse()
            .map_err(|_| wrong("local.listen", listen, expected))?;
        for (key, value) in [("local.mode", &self.mode), ("local.group", &self.group)] {
            if let Some(value) = value {
                return Err(wrong(key, value, "of any use for a TCP address"));
            }
        }
        if !address.ip().is_loopback() && !has_token {
            let expected = "a loopback address; for others give local.token_file too";
            return Err(wrong("local.listen", listen, expected));
        }
        Ok(Listen::Tcp(address))
    }

    fn token(&self) -> Result<Option<Token>, ConfigError> {
        let Some(path) = &self.token_file else {
            return Ok(None);
        };
        let text = read(path)?;
        let token = text.trim();
        let is_good = token.len() >= SHORTEST_TOKEN && token.bytes().all(|b| b.is_ascii_graphic());
        if !is_good {
            let value = path.display().to_string();
            let expected = "a file with one token of 16 or more printable ASCII characters";
            return Err(wrong("local.token_file", &value, expected));
        }
        Ok(Some(Token::new(token)))
    }
}

fn wrong(key: &'static str, value: &str, expected: &'static str) -> ConfigError {
    ConfigError::Value {
        key,
        value: value.to_owned(),
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Local, String> {
        let section: LocalSection = toml::from_str(text).unwrap();
        section.checked().map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_token_only_this_board_can_reach_the_address() {
        for listen in ["127.0.0.1:0", "127.1.2.3:80", "[::1]:8080"] {
            let local = check(&format!("listen = \"{listen}\"")).unwrap();
            assert_eq!(local.listen, Some(Listen::Tcp(listen.parse().unwrap())));
        }
        for listen in ["0.0.0.0:8080", "10.0.0.9:8080", "[::]:8080"] {
            let refused = check(&format!("listen = \"{listen}\"")).unwrap_err();
            assert!(refused.contains("local.token_file"), "{refused}");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "0123456789abcdef\n").unwrap();
        let text = format!("listen = \"0.0.0.0:80\"\ntoken_file = {file:?}");
        let local = check(&text).unwrap();
        assert_eq!(local.token, Some(Token::new("0123456789abcdef")));
        for content in ["", "short", "0123456789 abcdef"] {
            std::fs::write(&file, content).unwrap();
            assert!(
                check(&text).unwrap_err().contains("16 or more"),
                "{content}"
            );
        }
        std::fs::remove_file(&file).unwrap();
        assert!(check(&text).unwrap_err().contains("cannot read"));
    }

    #[test]
    fn a_unix_socket_has_a_mode_and_a_group() {
        let unix = |mode, group: Option<&str>| {
            Some(Listen::Unix {
                path: "/run/robot/api.sock".into(),
                mode,
                group: group.map(str::to_owned),
            })
        };
        let listen = "listen = \"unix:/run/robot/api.sock\"\n";
        assert_eq!(check(listen).unwrap().listen, unix(0o660, None));
        let more = format!("{listen}mode = \"0666\"\ngroup = \"face\"");
        assert_eq!(check(&more).unwrap().listen, unix(0o666, Some("face")));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("listen = \"8080\"", "local.listen"),
            ("listen = \"localhost:8080\"", "local.listen"),
            ("listen = \"unix:api.sock\"", "local.listen"),
            ("listen = \"unix:/a\"\nmode = \"rw\"", "local.mode"),
            ("listen = \"unix:/a\"\nmode = \"1777\"", "local.mode"),
            ("listen = \"127.0.0.1:1\"\nmode = \"600\"", "local.mode"),
            ("listen = \"127.0.0.1:1\"\ngroup = \"a\"", "local.group"),
            ("group = \"face\"", "local.group"),
        ] {
            let refused = check(text).unwrap_err();
            assert!(refused.starts_with(named), "{text}: {refused}");
        }
    }
}
