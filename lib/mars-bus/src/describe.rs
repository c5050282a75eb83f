//! What an interface offers, as a table; introspection data from it.
use crate::value::Type;
use std::fmt::Write as _;

/// An interface.
#[derive(Debug)]
pub struct Interface {
    /// Full name.
    pub name: &'static str,
    /// Sorted by name or by sense; names are unique.
    pub properties: &'static [Property],
    /// Methods. All of them change something, so only root and the user of the daemon may call them.
    pub methods: &'static [Method],
}

/// A property. All are read-only.
#[derive(Debug)]
pub struct Property {
    /// Name.
    pub name: &'static str,
    /// Type.
    pub ty: Type,
    /// Are changes told? What only grows older is not.
    pub emits: bool,
    /// Unit, and which value means "unknown".
    pub unit: &'static str,
    /// Meaning, one sentence.
    pub meaning: &'static str,
}

/// A method. It has no results.
#[derive(Debug)]
pub struct Method {
    /// Name.
    pub name: &'static str,
    /// Name of its argument, an unsigned 32-bit number, if there is one.
    pub arg: Option<&'static str>,
    /// Meaning.
    pub meaning: &'static str,
}

impl Interface {
    /// A property by name.
    pub fn property(&self, name: &str) -> Option<&'static Property> {
        self.properties.iter().find(|p| p.name == name)
    }
    /// A method by name.
    pub fn method(&self, name: &str) -> Option<&'static Method> {
        self.methods.iter().find(|m| m.name == name)
    }
}

const DOCTYPE: &str = "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n \
    \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n";
const STANDARD: &str = "  <interface name=\"org.freedesktop.DBus.Peer\">
    <method name=\"Ping\"/>
    <method name=\"GetMachineId\"><arg type=\"s\" name=\"machine_uuid\" direction=\"out\"/></method>
  </interface>
  <interface name=\"org.freedesktop.DBus.Introspectable\">
    <method name=\"Introspect\"><arg type=\"s\" name=\"data\" direction=\"out\"/></method>
  </interface>
";
const PROPERTIES: &str = "  <interface name=\"org.freedesktop.DBus.Properties\">
    <method name=\"Get\"><arg type=\"s\" name=\"interface_name\" direction=\"in\"/><arg type=\"s\" name=\"property_name\" direction=\"in\"/><arg type=\"v\" name=\"value\" direction=\"out\"/></method>
    <method name=\"GetAll\"><arg type=\"s\" name=\"interface_name\" direction=\"in\"/><arg type=\"a{sv}\" name=\"properties\" direction=\"out\"/></method>
    <method name=\"Set\"><arg type=\"s\" name=\"interface_name\" direction=\"in\"/><arg type=\"s\" name=\"property_name\" direction=\"in\"/><arg type=\"v\" name=\"value\" direction=\"in\"/></method>
    <signal name=\"PropertiesChanged\"><arg type=\"s\" name=\"interface_name\"/><arg type=\"a{sv}\" name=\"changed_properties\"/><arg type=\"as\" name=\"invalidated_properties\"/></signal>
  </interface>
";
const MANAGER: &str = "  <interface name=\"org.freedesktop.DBus.ObjectManager\">
    <method name=\"GetManagedObjects\"><arg type=\"a{oa{sa{sv}}}\" name=\"objects\" direction=\"out\"/></method>
    <signal name=\"InterfacesAdded\"><arg type=\"o\" name=\"object_path\"/><arg type=\"a{sa{sv}}\" name=\"interfaces_and_properties\"/></signal>
    <signal name=\"InterfacesRemoved\"><arg type=\"o\" name=\"object_path\"/><arg type=\"as\" name=\"interfaces\"/></signal>
  </interface>
";

/// Introspection data of an object. `interface`: `None` for a path that only leads to objects. `children`: names of the next elements.
pub fn introspect(
    interface: Option<&Interface>,
    is_manager: bool,
    children: impl IntoIterator<Item = impl AsRef<str>>,
) -> String {
    let mut xml = format!("{DOCTYPE}<node>\n{STANDARD}");
    if let Some(interface) = interface {
        xml.push_str(PROPERTIES);
        if is_manager {
            xml.push_str(MANAGER);
        }
        // Writing to a string cannot fail.
        let _ = own(&mut xml, interface);
    }
    for child in children {
        let _ = writeln!(xml, "  <node name=\"{}\"/>", child.as_ref());
    }
    xml.push_str("</node>\n");
    xml
}

fn own(xml: &mut String, interface: &Interface) -> std::fmt::Result {
    writeln!(xml, "  <interface name=\"{}\">", interface.name)?;
    for m in interface.methods {
        match m.arg {
            None => writeln!(xml, "    <method name=\"{}\"/>", m.name)?,
            Some(arg) => writeln!(
                xml,
                "    <method name=\"{}\"><arg type=\"u\" name=\"{arg}\" direction=\"in\"/></method>",
                m.name
            )?,
        }
    }
    for p in interface.properties {
        let (name, sig) = (p.name, p.ty.signature());
        if p.emits {
            writeln!(
                xml,
                "    <property name=\"{name}\" type=\"{sig}\" access=\"read\"/>"
            )?;
        } else {
            writeln!(
                xml,
                "    <property name=\"{name}\" type=\"{sig}\" access=\"read\"><annotation \
                 name=\"org.freedesktop.DBus.Property.EmitsChangedSignal\" value=\"false\"/></property>"
            )?;
        }
    }
    writeln!(xml, "  </interface>")
}

/// Text for the manual page: `-` and quotes as roff wants them.
fn roff(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

/// The part of `man/org.storage.mars1.5` that describes the interfaces. (`cargo run -p mars-bus --example manual`)
pub fn manual(interfaces: &[&Interface]) -> String {
    let mut out = String::new();
    for i in interfaces {
        // Writing to a string cannot fail.
        let _ = section(&mut out, i);
    }
    out
}

fn section(out: &mut String, i: &Interface) -> std::fmt::Result {
    writeln!(out, ".SH INTERFACE {}", roff(i.name))?;
    if !i.methods.is_empty() {
        writeln!(out, ".SS Methods")?;
    }
    for m in i.methods {
        let arg = m.arg.map(|a| format!("u {a}")).unwrap_or_default();
        writeln!(out, ".TP\n.BR {} \"({arg})\"\n{}", m.name, roff(m.meaning))?;
    }
    writeln!(out, ".SS Properties")?;
    for p in i.properties {
        writeln!(out, ".TP\n.BR {} \" {}\"", p.name, p.ty.signature())?;
        writeln!(out, "{}", roff(p.meaning))?;
        let quiet = (!p.emits).then_some("changes are not signalled");
        let notes: Vec<&str> = Some(p.unit)
            .into_iter()
            .filter(|u| !u.is_empty())
            .chain(quiet)
            .collect();
        if !notes.is_empty() {
            writeln!(out, "({})", roff(&notes.join("; ")))?;
        }
    }
    Ok(())
}
