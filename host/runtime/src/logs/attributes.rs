//! What a log's entries say of their container, when its options ask for it.

use std::collections::BTreeMap;

use super::config::{LogConfig, LogConfigError};

/// The attributes are in each entry.
const MAX_ATTRIBUTES_BYTES: usize = 64 * 1024;
/// The key that a tag has among the attributes.
const TAG_KEY: &str = "tag";
/// What Docker shows of an identifier.
const SHORT_ID_LETTERS: usize = 12;

/// What is known of a container.
#[derive(Clone, Debug, Default)]
pub struct ContainerFacts {
    /// Its identifier, whole.
    pub id: String,
    /// Its name, without a slash.
    pub name: String,
    /// The image's identifier, with its algorithm.
    pub image_id: String,
    /// The image as the user named it.
    pub image_name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its environment, as `NAME=value`.
    pub environment: Vec<String>,
}

/// The attributes of a log's entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogAttributes {
    json: String,
}

impl LogAttributes {
    /// Those that `config` asks for.
    ///
    /// # Errors
    ///
    /// When the tag is no template, or they are too large.
    pub fn of(config: &LogConfig, container: &ContainerFacts) -> Result<LogAttributes, LogConfigError> {
        let environment = container.environment.iter().filter_map(|variable| variable.split_once('='));
        let mut attributes: BTreeMap<&str, &str> = BTreeMap::new();
        attributes.extend(
            container.labels.iter().map(|(label, value)| (label.as_str(), value.as_str())).filter(
                |(label, _)| {
                    config.labels.iter().any(|wanted| wanted == label)
                        || config.label_pattern.as_ref().is_some_and(|pattern| pattern.is_match(label))
                },
            ),
        );
        attributes.extend(environment.filter(|(name, _)| {
            config.environment.iter().any(|wanted| wanted == name)
                || config.environment_pattern.as_ref().is_some_and(|pattern| pattern.is_match(name))
        }));
        let tag = render_tag(&config.tag, container)?;
        if !tag.is_empty() {
            attributes.insert(TAG_KEY, &tag);
        }
        if attributes.is_empty() {
            return Ok(LogAttributes::default());
        }
        // A map of strings always becomes JSON.
        let json = serde_json::to_string(&attributes).unwrap_or_default();
        if json.len() > MAX_ATTRIBUTES_BYTES {
            return Err(LogConfigError::AttributesTooLarge(MAX_ATTRIBUTES_BYTES));
        }
        Ok(LogAttributes { json })
    }

    /// A JSON object, or nothing.
    pub(super) fn json(&self) -> &str {
        &self.json
    }
}

/// Fills in a tag such as `{{.ImageName}}/{{.Name}}`. Of Go's templates it takes the fields and nothing else.
fn render_tag(template: &str, container: &ContainerFacts) -> Result<String, LogConfigError> {
    let invalid = || LogConfigError::InvalidTag(template.to_owned());
    let mut tag = String::new();
    let mut rest = template;
    while let Some((text, field)) = rest.split_once("{{") {
        let (field, after) = field.split_once("}}").ok_or_else(invalid)?;
        tag.push_str(text);
        tag.push_str(match field.trim() {
            ".ID" => short(&container.id),
            ".FullID" => &container.id,
            ".Name" => container.name.trim_start_matches('/'),
            ".ImageID" => short(&container.image_id),
            ".ImageFullID" => &container.image_id,
            ".ImageName" => &container.image_name,
            ".DaemonName" => "docker",
            _ => return Err(invalid()),
        });
        rest = after;
    }
    tag.push_str(rest);
    Ok(tag)
}

fn short(id: &str) -> &str {
    id.get(..SHORT_ID_LETTERS).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> ContainerFacts {
        ContainerFacts {
            id: "0123456789abcdef".to_owned(),
            name: "web".to_owned(),
            image_id: "sha256:0123456789".to_owned(),
            image_name: "busybox".to_owned(),
            labels: [("team", "a\"b"), ("tier", "1"), ("x", "y")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            environment: ["HOME=/root", "APP_A=1", "APP_B=2=3", "BARE"].map(str::to_owned).into(),
        }
    }

    fn attributes(options: &[(&str, &str)]) -> Result<String, LogConfigError> {
        let options: BTreeMap<String, String> =
            options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let config = LogConfig::parse("json-file", &options)?;
        LogAttributes::of(&config, &facts()).map(|attributes| attributes.json().to_owned())
    }

    #[test]
    fn entries_carry_what_was_asked_for() {
        assert_eq!(attributes(&[]).unwrap(), "");
        assert_eq!(attributes(&[("labels", "nothing")]).unwrap(), "");
        assert_eq!(
            attributes(&[("labels", "team,none"), ("env", "HOME,BARE")]).unwrap(),
            r#"{"HOME":"/root","team":"a\"b"}"#
        );
        assert_eq!(
            attributes(&[("labels-regex", "^ti"), ("env-regex", "^APP_")]).unwrap(),
            r#"{"APP_A":"1","APP_B":"2=3","tier":"1"}"#
        );
        assert_eq!(
            attributes(&[("tag", "{{.ImageName}}/{{ .Name }}/{{.ID}}")]).unwrap(),
            r#"{"tag":"busybox/web/0123456789ab"}"#
        );
    }

    #[test]
    fn bad_tags_and_huge_attributes_are_refused() {
        assert_eq!(
            attributes(&[("tag", "{{.Nope}}")]).unwrap_err().to_string(),
            "invalid log tag: {{.Nope}}"
        );
        assert!(attributes(&[("tag", "{{.Name")]).is_err());
        assert_eq!(
            attributes(&[("tag", &"x".repeat(70_000))]).unwrap_err(),
            LogConfigError::AttributesTooLarge(MAX_ATTRIBUTES_BYTES)
        );
    }
}
