package config

// Key is a key of the schema. The zero values of its fields: a string that is applied as in the Kairos project.
type Key struct {
	Name string
	// Aliases are other spellings of the name. In a [Config] the key has its own name.
	Aliases []string
	Type    Type
	// Doc says what the key does.
	Doc string
	// Differs says where that is not what the Kairos project does, or cloud-init for its keys.
	Differs string
	// Status is what becomes of the key, and Why, for those that are not applied, why and what to do instead.
	Status Status
	Why    string
	// Keys are the keys of an Object; Elem is of a List the item and of a Map the value.
	Keys []*Key
	Elem *Key
	// Names, where it is set, says of a Map's key what is wrong with it.
	Names func(name string) (message, suggestion string)
	// Enum lists the values that a string may have.
	Enum []string
	// Joined has all of a list's items count, in place of those that are not there yet.
	Joined bool
	// Secret values are not shown where they need not be.
	Secret bool
	// Check says what else is wrong with a value of the right type.
	Check func(*Value) (message, suggestion string)
}

// Type is the type of a value.
type Type int

// Types. Scalars may be in quotes or not.
const (
	tString  Type = iota // any scalar
	tBool                // true, false, yes, no, on, off, y, n in any case
	tInt                 // a whole number of 0 or more
	tSize                // MiB, a whole number of 0 or more
	tMode                // permissions: up to four octal digits, with or without 0 or 0o before them
	tWords               // a list of strings, or one string with commas between them
	tLines               // a list of strings, or one string; false is an empty list
	tCommand             // a line for the shell, or a list of the program and its arguments
	tList                // of Elem
	tMap                 // of keys that the schema does not know, to Elem
	tEnv                 // variables: a map, or a list of NAME=value
	tObject              // of Keys
	tUser                // an Object, or its name alone
	tAny                 // whatever it is
)

// Status is what becomes of a key.
type Status int

// A key takes effect, or is right and does nothing, or is read by the image's cloud-init alone, or is refused.
const (
	Applies Status = iota
	Ignore
	CloudInit
	Refuse
)

// Schema returns the schema: an Object with all keys. It is not to be changed.
func Schema() *Key { return root }

var root = &Key{Type: tObject, Doc: "A cloud-config of a Kairos node.", Keys: rootKeys()}

// find returns the key of a name, and nil where there is none.
func (k *Key) find(name string) *Key {
	for _, c := range k.Keys {
		if c.Name == name {
			return c
		}
		for _, a := range c.Aliases {
			if a == name {
				return c
			}
		}
	}
	return nil
}

// names lists the keys of an object with their other spellings.
func (k *Key) names() []string {
	var names []string
	for _, c := range k.Keys {
		names = append(append(names, c.Name), c.Aliases...)
	}
	return names
}

// container says that the key's values are looked into, each by its own path.
func (k *Key) container() bool {
	switch k.Type {
	case tObject, tUser:
		return true
	case tList, tMap:
		return k.Elem.container() || k.Elem.Type == tList && k.Elem.Elem.container()
	}
	return false
}

// The functions below keep the schema a table that can be read.

func key(name string, t Type, doc string) *Key { return &Key{Name: name, Type: t, Doc: doc} }

func object(name, doc string, keys ...*Key) *Key {
	return &Key{Name: name, Type: tObject, Doc: doc, Keys: keys}
}

func list(name, doc string, elem *Key) *Key {
	return &Key{Name: name, Type: tList, Doc: doc, Elem: elem}
}

func texts(name, doc string) *Key { return list(name, doc, &Key{}) }

func mapping(name, doc string, elem *Key) *Key {
	return &Key{Name: name, Type: tMap, Doc: doc, Elem: elem}
}

func ignored(name string, t Type, why string) *Key {
	return &Key{Name: name, Type: t, Status: Ignore, Why: why, Elem: &Key{Type: tAny}}
}

func refused(name, why string) *Key {
	return &Key{Name: name, Type: tAny, Status: Refuse, Why: why}
}

func (k *Key) differs(s string) *Key                      { k.Differs = s; return k }
func (k *Key) also(names ...string) *Key                  { k.Aliases = names; return k }
func (k *Key) secret() *Key                               { k.Secret = true; return k }
func (k *Key) oneOf(values ...string) *Key                { k.Enum = values; return k }
func (k *Key) joined() *Key                               { k.Joined = true; return k }
func (k *Key) checked(c checkFunc) *Key                   { k.Check = c; return k }
func (k *Key) named(n func(string) (string, string)) *Key { k.Names = n; return k }

type checkFunc = func(*Value) (message, suggestion string)
