-- Orthanc itself takes a POST that a browser sends for another site's page, with the password that its
-- visitor has given here: such a page could delete studies. This refuses them, as /oar does by itself.
-- Programs send neither of these headers.
function IncomingHttpRequestFilter(method, uri, ip, username, httpHeaders)
  if method == 'GET' then return true end
  local site = httpHeaders['sec-fetch-site']
  if site ~= nil then return site == 'same-origin' or site == 'none' end
  local origin = httpHeaders['origin']
  -- With a GET that "?_method=delete" makes a DELETE, as for a picture, a browser sends neither where there
  -- is no TLS, but its user's languages always.
  if origin == nil then return httpHeaders['accept-language'] == nil end
  return string.gsub(origin, '^[^:]*://', '') == httpHeaders['host']
end
