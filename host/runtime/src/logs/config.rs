//! How a log is kept: the driver and the options that a user chose, checked as Docker checks them and in its words.

use std::collections::BTreeMap;

use regex::Regex;

/// More files than this are refused: a reader opens them all.
const MAX_FILES: u32 = 1000;
/// What Docker's `local` driver keeps when nothing is said.
const LOCAL_MAX_BYTES: u64 = 20_000_000;
const LOCAL_MAX_FILES: u32 = 5;
/// A pattern that needs more memory than this is refused.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// Where output goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogDriver {
    /// To files, as Docker's driver of that name writes them.
    #[default]
    JsonFile,
    /// As [`LogDriver::JsonFile`], with the limits that Docker's driver of that name has. Docker gives no promise for
    /// its files' format.
    Local,
    /// Nowhere.
    None,
}

impl LogDriver {
    /// As users write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            LogDriver::JsonFile => "json-file",
            LogDriver::Local => "local",
            LogDriver::None => "none",
        }
    }
}

/// What the drivers that keep files understand.
const OPTIONS: &[&str] =
    &["max-file", "max-size", "compress", "labels", "labels-regex", "env", "env-regex", "tag"];

/// Why a container cannot log as it was asked to. The messages are Docker's.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum LogConfigError {
    /// There is no such driver here.
    #[error("error looking up logging plugin {0}: plugin \"{0}\" not found")]
    UnknownDriver(String),
    /// The driver has no such option.
    #[error("unknown log opt '{option}' for {}", option_owner(*.driver))]
    UnknownOption {
        /// The driver.
        driver: LogDriver,
        /// The option.
        option: String,
    },
    /// `mode` is neither of Docker's two.
    #[error("logger: logging mode not supported: {0}")]
    UnknownMode(String),
    /// `max-buffer-size` without a buffer.
    #[error("logger: max-buffer-size option is only supported with 'mode=non-blocking'")]
    BufferWithoutMode,
    /// Not a size.
    #[error("invalid size: '{0}'")]
    InvalidSize(String),
    /// Not a unit of size.
    #[error("invalid suffix: '{0}'")]
    InvalidSizeSuffix(String),
    /// A limit that nothing fits in.
    #[error("max-size must be a positive number")]
    NoSize,
    /// Not a number.
    #[error("strconv.Atoi: parsing {0:?}: invalid syntax")]
    InvalidNumber(String),
    /// Not yes or no.
    #[error("strconv.ParseBool: parsing {0:?}: invalid syntax")]
    InvalidBool(String),
    /// No file at all.
    #[error("max-file cannot be less than 1")]
    TooFewFiles,
    /// More files than a reader could open.
    #[error("max-file cannot be more than {MAX_FILES}")]
    TooManyFiles,
    /// Only files that are full are compressed.
    #[error("compress cannot be true when max-file is less than 2 or max-size is not set")]
    NothingToCompress,
    /// Not a regular expression, or one that would need too much memory.
    #[error("error parsing regexp: `{pattern}`")]
    InvalidPattern {
        /// The expression.
        pattern: String,
        /// What is wrong with it.
        #[source]
        source: regex::Error,
    },
    /// Not a template, or of something that a container has not.
    #[error("invalid log tag: {0}")]
    InvalidTag(String),
    /// More than fits into every entry.
    #[error("the labels and environment variables of the log are larger than {0} bytes")]
    AttributesTooLarge(usize),
}

/// A driver with its options.
#[derive(Clone, Debug, Default)]
pub struct LogConfig {
    driver: LogDriver,
    /// None: files do not become full.
    max_bytes: Option<u64>,
    max_files: u32,
    compress: bool,
    pub(super) labels: Vec<String>,
    pub(super) label_pattern: Option<Regex>,
    pub(super) environment: Vec<String>,
    pub(super) environment_pattern: Option<Regex>,
    pub(super) tag: String,
}

impl LogConfig {
    /// Checks what a user chose. No driver is `json-file`. Docker's `mode=non-blocking` is accepted and means nothing:
    /// a log that loses what comes too fast is not needed where the log never waits for a network.
    ///
    /// # Errors
    ///
    /// When a driver or an option is unknown, or an option's value is no good.
    pub fn parse<'a>(
        driver: &str,
        options: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<LogConfig, LogConfigError> {
        let options: BTreeMap<&str, &str> =
            options.into_iter().map(|(option, value)| (option.as_str(), value.as_str())).collect();
        let driver = match driver {
            "" | "json-file" => LogDriver::JsonFile,
            "local" => LogDriver::Local,
            // Docker does not look at the options of this one.
            "none" => return Ok(LogConfig { driver: LogDriver::None, ..LogConfig::default() }),
            other => return Err(LogConfigError::UnknownDriver(other.to_owned())),
        };
        check_names(driver, &options)?;

        let local = driver == LogDriver::Local;
        let max_bytes = match options.get("max-size") {
            Some(size) => parse_max_size(size)?,
            None => local.then_some(LOCAL_MAX_BYTES),
        };
        let max_files = match options.get("max-file") {
            Some(count) => parse_max_files(count)?,
            None if local => LOCAL_MAX_FILES,
            None => 1,
        };
        let can_compress = max_files > 1 && max_bytes.is_some();
        let compress = match options.get("compress") {
            Some(choice) => parse_bool(choice)?,
            None => local && can_compress,
        };
        if compress && !can_compress {
            return Err(LogConfigError::NothingToCompress);
        }
        Ok(LogConfig {
            driver,
            max_bytes,
            max_files,
            compress,
            labels: parse_list(options.get("labels")),
            label_pattern: parse_pattern(options.get("labels-regex"))?,
            environment: parse_list(options.get("env")),
            environment_pattern: parse_pattern(options.get("env-regex"))?,
            tag: options.get("tag").map(|&tag| tag.to_owned()).unwrap_or_default(),
        })
    }

    /// Where output goes.
    #[must_use]
    pub fn driver(&self) -> LogDriver {
        self.driver
    }

    pub(super) fn max_bytes(&self) -> Option<u64> {
        self.max_bytes
    }

    pub(super) fn max_files(&self) -> u32 {
        self.max_files.max(1)
    }

    pub(super) fn compress(&self) -> bool {
        self.compress
    }
}

/// Docker's two drivers have a wording each.
fn option_owner(driver: LogDriver) -> &'static str {
    match driver {
        LogDriver::JsonFile => "json-file log driver",
        LogDriver::Local => "log driver local",
        LogDriver::None => "log driver none",
    }
}

fn check_names(driver: LogDriver, options: &BTreeMap<&str, &str>) -> Result<(), LogConfigError> {
    let mode = options.get("mode").copied().unwrap_or_default();
    if !matches!(mode, "" | "blocking" | "non-blocking") {
        return Err(LogConfigError::UnknownMode(mode.to_owned()));
    }
    if let Some(size) = options.get("max-buffer-size") {
        if mode != "non-blocking" {
            return Err(LogConfigError::BufferWithoutMode);
        }
        parse_size(size)?;
    }
    let unknown = options
        .keys()
        .find(|option| !matches!(**option, "mode" | "max-buffer-size") && !OPTIONS.contains(option));
    match unknown {
        Some(&option) => Err(LogConfigError::UnknownOption { driver, option: option.to_owned() }),
        None => Ok(()),
    }
}

fn parse_max_size(size: &str) -> Result<Option<u64>, LogConfigError> {
    // What Docker's documentation names as the default.
    if size == "-1" {
        return Ok(None);
    }
    match parse_size(size)? {
        0 => Err(LogConfigError::NoSize),
        bytes => Ok(Some(bytes)),
    }
}

/// A number with a unit, whose multiples are of 1000: `10m`, `1.5 GB`, `200KiB`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A float becomes the nearest integer there is.
fn parse_size(text: &str) -> Result<u64, LogConfigError> {
    let invalid = || LogConfigError::InvalidSize(text.to_owned());
    let digits = text.rfind(|letter: char| letter.is_ascii_digit() || letter == '.' || letter == ' ');
    let (number, suffix) = text.split_at(digits.ok_or_else(invalid)? + 1);
    let number = number.strip_suffix(' ').unwrap_or(number);
    let number = number.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    let number = number.ok_or_else(invalid)?;

    let suffix = suffix.to_lowercase();
    let unit = suffix.strip_suffix("ib").or_else(|| suffix.strip_suffix('b')).unwrap_or(&suffix);
    let multiple = match unit {
        "" if suffix != "ib" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "t" => 1e12,
        "p" => 1e15,
        _ => return Err(LogConfigError::InvalidSizeSuffix(suffix)),
    };
    Ok((number * multiple) as u64)
}

fn parse_max_files(text: &str) -> Result<u32, LogConfigError> {
    let count: i64 = text.parse().map_err(|_| LogConfigError::InvalidNumber(text.to_owned()))?;
    if count < 1 {
        return Err(LogConfigError::TooFewFiles);
    }
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    if count > MAX_FILES { Err(LogConfigError::TooManyFiles) } else { Ok(count) }
}

/// Go's spellings.
fn parse_bool(text: &str) -> Result<bool, LogConfigError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(LogConfigError::InvalidBool(text.to_owned())),
    }
}

fn parse_list(text: Option<&&str>) -> Vec<String> {
    text.map(|text| text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
        .unwrap_or_default()
}

fn parse_pattern(pattern: Option<&&str>) -> Result<Option<Regex>, LogConfigError> {
    let Some(&pattern) = pattern.filter(|pattern| !pattern.is_empty()) else { return Ok(None) };
    let regex = regex::RegexBuilder::new(pattern)
        .size_limit(MAX_PATTERN_BYTES)
        .dfa_size_limit(MAX_PATTERN_BYTES)
        .build()
        .map_err(|source| LogConfigError::InvalidPattern { pattern: pattern.to_owned(), source })?;
    Ok(Some(regex))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(driver: &str, options: &[(&str, &str)]) -> Result<LogConfig, LogConfigError> {
        let options: BTreeMap<String, String> =
            options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        LogConfig::parse(driver, &options)
    }

    fn refusal(driver: &str, options: &[(&str, &str)]) -> String {
        parse(driver, options).unwrap_err().to_string()
    }

    #[test]
    fn without_options_one_file_grows() {
        for driver in ["", "json-file"] {
            let config = parse(driver, &[]).unwrap();
            assert_eq!(
                (config.driver(), config.max_bytes(), config.max_files()),
                (LogDriver::JsonFile, None, 1)
            );
            assert!(!config.compress());
        }
        let local = parse("local", &[]).unwrap();
        assert_eq!((local.max_bytes(), local.max_files(), local.compress()), (Some(20_000_000), 5, true));
        assert!(!parse("local", &[("max-file", "1")]).unwrap().compress());
        assert_eq!(parse("none", &[("whatever", "1")]).unwrap().driver(), LogDriver::None);
    }

    #[test]
    fn limits_are_read_as_docker_reads_them() {
        let sizes = [
            ("10m", 10_000_000),
            ("10M", 10_000_000),
            ("1.5k", 1500),
            ("1.5 kB", 1500),
            ("7", 7),
            ("7b", 7),
            ("3gib", 3_000_000_000),
        ];
        for (text, bytes) in sizes {
            assert_eq!(parse("", &[("max-size", text)]).unwrap().max_bytes(), Some(bytes), "{text}");
        }
        assert_eq!(parse("", &[("max-size", "-1")]).unwrap().max_bytes(), None);
        let config = parse("", &[("max-size", "1m"), ("max-file", "3"), ("compress", "true")]).unwrap();
        assert_eq!((config.max_files(), config.compress()), (3, true));
        assert!(parse("", &[("mode", "non-blocking"), ("max-buffer-size", "4m")]).is_ok());
    }

    #[test]
    fn refusals_are_in_dockers_words() {
        assert_eq!(refusal("gelf", &[]), "error looking up logging plugin gelf: plugin \"gelf\" not found");
        assert_eq!(refusal("", &[("asdf", "1")]), "unknown log opt 'asdf' for json-file log driver");
        assert_eq!(refusal("local", &[("tags", "1")]), "unknown log opt 'tags' for log driver local");
        assert_eq!(refusal("", &[("max-size", "0")]), "max-size must be a positive number");
        assert_eq!(refusal("", &[("max-size", "ten")]), "invalid size: 'ten'");
        assert_eq!(refusal("", &[("max-size", "-5m")]), "invalid size: '-5m'");
        assert_eq!(refusal("", &[("max-size", "5x")]), "invalid suffix: 'x'");
        assert_eq!(refusal("", &[("max-size", "5ib")]), "invalid suffix: 'ib'");
        assert_eq!(refusal("", &[("max-file", "0")]), "max-file cannot be less than 1");
        assert_eq!(refusal("", &[("max-file", "x")]), "strconv.Atoi: parsing \"x\": invalid syntax");
        assert_eq!(refusal("", &[("max-file", "100000")]), "max-file cannot be more than 1000");
        assert_eq!(refusal("", &[("compress", "y")]), "strconv.ParseBool: parsing \"y\": invalid syntax");
        assert_eq!(
            refusal("", &[("compress", "true")]),
            "compress cannot be true when max-file is less than 2 or max-size is not set"
        );
        assert_eq!(refusal("", &[("mode", "x")]), "logger: logging mode not supported: x");
        assert_eq!(
            refusal("", &[("max-buffer-size", "4m")]),
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
        );
        assert_eq!(refusal("", &[("env-regex", "(")]), "error parsing regexp: `(`");
        assert!(refusal("", &[("labels-regex", "(\\w{1000}){1000}")]).starts_with("error parsing regexp"));
    }
}
