-- Orthanc itself takes a POST that a browser sends for another site's page, with the password that its
-- visitor has given here: such a page could delete studies. This refuses them, as /oar does by itself.
-- Programs send neither of these headers.
function IncomingHttpRequestFilter(method, uri, ip, username, httpHeaders)
  if method == 'GET' then return true end
  local site = httpHeaders['sec-fetch-site']
  if site ~= nil then return site == 'same-origin' or site == 'none' end
  local origin = httpHeaders['origin']
  -- Orthanc takes "?_method=delete" behind the address of a picture for a DELETE, with which a browser sends
  -- neither where there is no TLS, but its user's languages always. It makes no POST of a GET.
  if origin == nil then return method == 'POST' or httpHeaders['accept-language'] == nil end
  return string.gsub(origin, '^[^:]*://', '') == httpHeaders['host']
end
