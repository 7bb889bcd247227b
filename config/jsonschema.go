package config

import (
	"encoding/json"
	"fmt"
)

// JSONSchema returns the schema as JSON Schema, draft 2020-12, for editors and other tools. What depends on more than
// one key, or on the form of a text, it does not say: `config check` does.
func JSONSchema() []byte {
	s := root.jsonSchema()
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "Kairos cloud-config"
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("config: encode the schema: %v", err)) // it is a constant
	}
	return append(b, '\n')
}

type schema = map[string]any

func (k *Key) jsonSchema() schema {
	s := k.typeSchema()
	if k.Doc != "" {
		s["description"] = k.Doc
	}
	switch k.Status {
	case Ignore:
		s["description"], s["deprecated"] = "Ignored here: "+k.Why+".", true
	case CloudInit:
		s["description"] = "For images with cloud-init: " + k.Why + "."
	case Refuse:
		return schema{"not": schema{}, "description": "Not here: " + k.Why + "."}
	}
	return s
}

func (k *Key) typeSchema() schema {
	scalar := []string{"string", "number", "boolean", "null"}
	texts := schema{"type": []string{"array", "null"}, "items": schema{"type": scalar}}
	switch k.Type {
	case tAny:
		return schema{}
	case tBool:
		return schema{
			"anyOf": []schema{
				{"type": []string{"boolean", "null"}},
				{
					"type":    "string",
					"pattern": "^([Tt]rue|TRUE|[Ff]alse|FALSE|[Yy]es|YES|[Nn]o|NO|[Oo]n|ON|[Oo]ff|OFF|[yYnN])$",
				},
			},
		}
	case tInt, tSize:
		return schema{"type": []string{"integer", "string", "null"}, "minimum": 0, "pattern": "^ *[0-9]+ *$"}
	case tMode:
		return schema{"type": []string{"integer", "string", "null"}, "pattern": "^ *(0o?)?[0-7]{1,5} *$"}
	case tWords, tLines, tCommand:
		return schema{"anyOf": []schema{{"type": scalar}, texts}}
	case tEnv:
		return schema{
			"anyOf": []schema{
				{"type": []string{"object", "null"}, "additionalProperties": schema{"type": scalar}},
				texts,
			},
		}
	case tList:
		return schema{"type": []string{"array", "null"}, "items": k.Elem.jsonSchema()}
	case tMap:
		return schema{"type": []string{"object", "null"}, "additionalProperties": k.Elem.jsonSchema()}
	case tObject:
		return k.objectSchema()
	case tUser:
		return schema{"anyOf": []schema{{"type": "string"}, k.objectSchema()}}
	}
	if len(k.Enum) > 0 {
		values := []any{nil}
		for _, e := range k.Enum {
			values = append(values, e)
			if b, ok := parseBool(e); ok {
				values = append(values, b)
			}
		}
		return schema{"enum": values}
	}
	return schema{"type": scalar}
}

func (k *Key) objectSchema() schema {
	properties, dotted := schema{}, schema{`^(x-|\.)`: schema{}}
	for _, c := range k.Keys {
		s := c.jsonSchema()
		properties[c.Name] = s
		for _, a := range c.Aliases {
			properties[a] = s
		}
		if c.Type == tObject || c.Type == tMap {
			dotted["^"+c.Name+`\.`] = schema{} // as in partitions.oem.size: 60
		}
	}
	return schema{
		"type":                 []string{"object", "null"},
		"properties":           properties,
		"patternProperties":    dotted,
		"additionalProperties": false,
	}
}
