//! Who a process runs as: `USER[:GROUP]` by the container's own /etc/passwd and /etc/group.
//!
//! Pure: the files come as text. The rules and the words of the errors are those of Docker and runc. Called by the
//! child that becomes the process, after it has entered the container: these files belong to strangers.

use capsid_protocol::Identity;

/// Largest number of a user or group that runtimes for containers accept.
const MAX_ID: u32 = (1 << 31) - 1;
/// Most supplementary groups of a process (`NGROUPS_MAX`, linux/limits.h).
const MAX_GROUPS: usize = 65536;

/// A user, by numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// User.
    pub(crate) uid: u32,
    /// Primary group.
    pub(crate) gid: u32,
    /// Supplementary groups, the primary one first: a set-group-id program must not be able to drop it (moby,
    /// CVE-2022-36109).
    pub(crate) groups: Vec<u32>,
    /// Home folder.
    pub(crate) home: String,
}

/// Why there is no such user.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum IdentityError {
    /// A name that /etc/passwd does not have.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// A name that /etc/group does not have.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    /// A number out of range.
    #[error("uids and gids must be in range 0-{MAX_ID}")]
    OutOfRange,
    /// More groups than a process can have.
    #[error("a process has at most {MAX_GROUPS} groups")]
    TooManyGroups,
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_entries(passwd: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let home = fields.nth(1).unwrap_or_default();
        (!name.is_empty() && !name.starts_with('#')).then_some(PasswdEntry { name, uid, gid, home })
    })
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl GroupEntry<'_> {
    fn has_member(&self, user: &str) -> bool {
        self.members.split(',').any(|member| member == user)
    }

    fn is_called(&self, name_or_number: &str) -> bool {
        self.name == name_or_number || name_or_number.parse() == Ok(self.gid)
    }
}

fn group_entries(group: &str) -> impl Iterator<Item = GroupEntry<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let gid = fields.next()?.parse().ok()?;
        let members = fields.next().unwrap_or_default();
        (!name.is_empty() && !name.starts_with('#')).then_some(GroupEntry { name, gid, members })
    })
}

/// Resolves an identity by the text of /etc/passwd and /etc/group, each empty if there is no such file.
///
/// # Errors
///
/// See [`IdentityError`].
pub(crate) fn resolve(identity: &Identity, passwd: &str, group: &str) -> Result<User, IdentityError> {
    let (user_part, group_part) = identity.user.split_once(':').unwrap_or((&identity.user, ""));
    let mut user = User { uid: 0, gid: 0, groups: Vec::new(), home: "/".to_owned() };
    let account = find_account(user_part, passwd);
    match &account {
        Some(entry) => {
            (user.uid, user.gid) = (entry.uid, entry.gid);
            if !entry.home.is_empty() {
                entry.home.clone_into(&mut user.home);
            }
        }
        None if user_part.is_empty() => {}
        None => user.uid = number(user_part).ok_or_else(|| IdentityError::NoUser(user_part.to_owned()))??,
    }
    let mut supplementary = Vec::new();
    if !group_part.is_empty() {
        user.gid = find_group(group_part, group)?;
    } else if let Some(account) = account {
        supplementary.extend(group_entries(group).filter(|g| g.has_member(account.name)).map(|g| g.gid));
    }
    user.groups.push(user.gid);
    for name in &identity.additional_groups {
        supplementary.push(find_group(name, group)?);
    }
    add_distinct(&mut user.groups, supplementary)?;
    if user.uid > MAX_ID || user.groups.iter().any(|gid| *gid > MAX_ID) {
        return Err(IdentityError::OutOfRange);
    }
    Ok(user)
}

fn add_distinct(groups: &mut Vec<u32>, more: Vec<u32>) -> Result<(), IdentityError> {
    let mut seen: std::collections::BTreeSet<u32> = groups.iter().copied().collect();
    groups.extend(more.into_iter().filter(|gid| seen.insert(*gid)));
    if groups.len() > MAX_GROUPS { Err(IdentityError::TooManyGroups) } else { Ok(()) }
}

fn find_account<'a>(user: &str, passwd: &'a str) -> Option<PasswdEntry<'a>> {
    if user.is_empty() {
        return passwd_entries(passwd).find(|entry| entry.uid == 0);
    }
    passwd_entries(passwd).find(|entry| entry.name == user || user.parse() == Ok(entry.uid))
}

fn find_group(name: &str, group: &str) -> Result<u32, IdentityError> {
    match group_entries(group).find(|entry| entry.is_called(name)) {
        Some(entry) => Ok(entry.gid),
        None => number(name).ok_or_else(|| IdentityError::NoGroup(name.to_owned()))?,
    }
}

/// `None`: not a number at all.
fn number(text: &str) -> Option<Result<u32, IdentityError>> {
    let number: i64 = text.parse().ok()?;
    Some(u32::try_from(number).ok().filter(|id| *id <= MAX_ID).ok_or(IdentityError::OutOfRange))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\nbin:x:1:2:bin:/bin:/sbin/nologin\n\
                          web:x:1000:1001::/srv/web:/bin/sh\n77:x:5:6::/five:\n";
    const GROUP: &str =
        "root:x:0:\nwheel:x:10:root,web\nweb:x:1001:\nextra:x:20:web\nempty:x:30\nvideo:x:44:other\n";

    fn resolve_text(user: &str, additional: &[&str]) -> Result<User, IdentityError> {
        let additional_groups = additional.iter().map(|&name| name.to_owned()).collect();
        resolve(&Identity { user: user.to_owned(), additional_groups }, PASSWD, GROUP)
    }

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> User {
        User { uid, gid, groups: groups.to_vec(), home: home.to_owned() }
    }

    #[test]
    fn nobody_named_is_root_with_roots_groups() {
        assert_eq!(resolve_text("", &[]), Ok(user(0, 0, &[0, 10], "/root")));
        let empty = resolve(&Identity::default(), "", "");
        assert_eq!(empty, Ok(user(0, 0, &[0], "/")));
    }

    #[test]
    fn a_name_gives_its_groups() {
        assert_eq!(resolve_text("web", &[]), Ok(user(1000, 1001, &[1001, 10, 20], "/srv/web")));
    }

    #[test]
    fn a_number_of_an_account_is_that_account() {
        assert_eq!(resolve_text("1000", &[]), Ok(user(1000, 1001, &[1001, 10, 20], "/srv/web")));
    }

    #[test]
    fn a_number_without_an_account_is_in_group_root() {
        assert_eq!(resolve_text("4242", &[]), Ok(user(4242, 0, &[0], "/")));
    }

    #[test]
    fn a_given_group_replaces_the_accounts_groups() {
        assert_eq!(resolve_text("web:video", &[]), Ok(user(1000, 44, &[44], "/srv/web")));
        assert_eq!(resolve_text("web:4711", &[]), Ok(user(1000, 4711, &[4711], "/srv/web")));
        assert_eq!(resolve_text(":video", &[]), Ok(user(0, 44, &[44], "/root")));
    }

    #[test]
    fn a_name_that_is_a_number_wins_over_the_number() {
        assert_eq!(resolve_text("77", &[]), Ok(user(5, 6, &[6], "/five")));
    }

    #[test]
    fn further_groups_come_by_name_and_number_and_once() {
        assert_eq!(
            resolve_text("web", &["video", "99", "wheel"]),
            Ok(user(1000, 1001, &[1001, 10, 20, 44, 99], "/srv/web"))
        );
    }

    #[test]
    fn errors_have_dockers_words() {
        let words = |user, groups: &[&str]| resolve_text(user, groups).unwrap_err().to_string();
        assert_eq!(words("nobody", &[]), "unable to find user nobody: no matching entries in passwd file");
        assert_eq!(words("web:none", &[]), "unable to find group none: no matching entries in group file");
        assert_eq!(words("web", &["none"]), "unable to find group none: no matching entries in group file");
        assert_eq!(words("2147483648", &[]), "uids and gids must be in range 0-2147483647");
        assert_eq!(words("-1", &[]), "uids and gids must be in range 0-2147483647");
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(user in ".{0,20}", passwd in "[a-z0-9:\n,#-]{0,200}", group in "[a-z0-9:\n,-]{0,200}") {
            let _ = resolve(&Identity { user, additional_groups: vec!["g".to_owned()] }, &passwd, &group);
        }
    }
}
