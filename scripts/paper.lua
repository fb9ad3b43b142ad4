-- What differs on paper: a link to another page is its text, with the page in a footnote the first
-- time; a picture is centred and narrower than the text; a table stays on one page.

local named = {}

function Link(link)
  local page = link.target:match("^[^:#]+%.md")
  if not page then
    return nil
  end
  if not named[page] then
    named[page] = true
    link.content:insert(pandoc.Note({ pandoc.Plain({ pandoc.Code("docs/" .. page) }) }))
  end
  return link.content
end

function Header(header)
  if header.identifier == "references" then
    header.classes:insert("unnumbered")
  end
  return header
end

function Para(paragraph)
  local image = paragraph.content[1]
  if image.t == "Image" then
    image.attributes.width = "60%"
    return { pandoc.RawBlock("latex", "\\smallskip\\centerline{"), pandoc.Plain(image), pandoc.RawBlock("latex", "}\\nopagebreak") }
  end
end

function Table(shown)
  local lines = #shown.bodies[1].body + 3
  return { pandoc.RawBlock("latex", "\\needlines{" .. lines .. "}"), shown }
end
